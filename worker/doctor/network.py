"""Checks of the networks: their weights, and a new frame of each precision against one in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from dain_core.errors import DainCoreError
from dain_core.evaluation.metrics import psnr
from dain_core.network.networks import config_named
from dain_core.runtime.backends import PRECISIONS
from dain_core.runtime.devices import usable_devices
from dain_core.runtime.engine import Interpolator
from dain_core.weights.files import SHIPPED, WeightsError, verify_shipped
from dain_core.weights.registry import registry
from service.doctor.findings import Checks, Finding, error, ok, warning
from service.settings import read_settings
from worker.bench.choices import SIZES
from worker.bench.measure import between, now, panned

LEAST_DB = 40.0  # a difference from float32 that nobody sees; fp16 has 60, int8 45
EQUAL_DB = 200.0  # and more: equal
FRAME = (96, 160)  # height and width


class Frame(NamedTuple):
    """A new frame in one precision: PSNR against float32 in dB, milliseconds, and how often it was not finite."""

    precision: str
    db: float
    milliseconds: float
    recomputed: int


def weights() -> Iterator[Finding]:
    """Whether the weights that come with the project are what they should be, and a user's own can be served."""
    faults = []
    for name in SHIPPED:
        try:
            verify_shipped(name)
        except (WeightsError, OSError) as failure:
            faults.append(
                error("weights", f"{str(failure).partition(':')[0]}.", "Install the project again.")
            )
    yield from faults
    folder = read_settings().models
    try:
        own = len(registry(folder)) - len(SHIPPED)
    except WeightsError as failure:
        yield error("weights", f"{failure}.", "Correct the folder of your own models, DAIN_MODELS.")
        return
    if not faults:
        yield ok("weights", f"{', '.join(SHIPPED)} have the right hashes; {own} models of your own.")


def warm_up() -> Iterator[Finding]:
    for device in usable_devices():
        try:
            yield from (judge_frame(device, frame) for frame in frames(device))
        except (DainCoreError, RuntimeError) as failure:
            said = str(failure).splitlines()[0].rstrip(".")
            yield error("warm-up", f"No frame can be made on {device}: {said}.",
                        "See what the other findings say of the GPU, the kernels and the weights.")  # fmt: skip


def frames(device: str) -> Iterator[Frame]:
    """A new frame on a device in each precision that it has, float32 first."""
    pictures = panned(*FRAME, torch.device(device), count=2)
    exact = None
    for precision in PRECISIONS:
        try:
            engine = Interpolator.load("auto", device=device, precision=precision)
        except ValueError:  # the device has no such instructions
            continue
        made = between(engine, pictures)  # libraries choose their algorithms
        began = now(engine.device)
        made = between(engine, pictures)
        milliseconds = 1000 * (now(engine.device) - began)
        exact = made if exact is None else exact
        yield Frame(precision, psnr(made, exact), milliseconds, engine.recomputed)


def judge_frame(device: str, frame: Frame) -> Finding:
    """Whether a precision makes the frame that float32 makes."""
    made = f"A new frame of {FRAME[1]}x{FRAME[0]} in {frame.precision} on {device}"
    if frame.recomputed:
        fault = "held numbers that are not finite"
    elif not frame.db >= LEAST_DB:
        fault = f"is {frame.db:.1f} dB from fp32, and should be {LEAST_DB:.0f} dB at least"
    else:
        distance = f", {frame.db:.0f} dB from fp32" if frame.db < EQUAL_DB else ""
        return ok("warm-up", f"{made}: {frame.milliseconds:.0f} ms{distance}.")
    return error(
        "warm-up",
        f"{made} {fault}.",
        "Choose another precision (DAIN_PRECISION), build the kernels anew, and test the GPU's memory.",
    )


def padding() -> Iterator[Finding]:
    """What the network adds around frames of usual sizes, whose sides it wants to be multiples of a number."""
    device = usable_devices()[0]
    name = "dain-lite" if device == "cpu" else "dain-refined"
    yield from judge_padding(name, config_named(name).multiple, list(SIZES.values()))


def judge_padding(model: str, multiple: int, sizes: list[tuple[int, int]]) -> Iterator[Finding]:
    told, dear = [], []
    for height, width in sizes:
        taller, wider = (side + -side % multiple for side in (height, width))
        more = taller * wider / (height * width) - 1
        told.append(
            f"{width}x{height} as {wider}x{taller} (+{more:.0%})" if more else f"{width}x{height} as it is"
        )
        dear += [f"{width}x{height}"] if more > 0.1 else []
    yield ok("padding", f"{model} computes {', '.join(told)}: sides are multiples of {multiple}.")
    if dear:
        yield warning("padding", f"More than a tenth of the work on {', '.join(dear)} is on padding.",
                      "Scale the video to multiples of the number, if time matters.")  # fmt: skip


CHECKS: Checks = {"weights": weights, "warm-up": warm_up, "padding": padding}
