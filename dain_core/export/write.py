"""Writes a network as ONNX files: traced, checked, compared with the network itself, and only then kept."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor

from dain_core import __version__
from dain_core.compression.quantise import sample_pairs
from dain_core.evaluation.clips import find_clips
from dain_core.evaluation.pictures import EvaluationError
from dain_core.export.errors import ExportError
from dain_core.export.graphs import FORMS, Graph
from dain_core.export.operators import StandardOperators
from dain_core.export.quantise import ASYMMETRIC, EightBits, quantise
from dain_core.network.networks import Network, build
from dain_core.network.padding import Padding
from dain_core.weights.files import load_weights
from dain_core.weights.registry import Entry

OPSET = 20
#: How many pairs of real frames eight bits are calibrated with.
CALIBRATED = 8


@dataclass(frozen=True)
class Precision:
    """What the layers of an export compute in.

    Attributes:
        dtype: of the layers.
        least: the PSNR in dB below which the exported network is not the network, whose frame is in float32.
        eight_bits: how convolutions have eight bits, if they do.
    """

    dtype: torch.dtype
    least: float
    eight_bits: EightBits | None = None


#: The precisions of ONNX files for ONNX Runtime.
PRECISIONS = {
    "fp32": Precision(torch.float32, 70.0),
    "fp16": Precision(torch.float16, 45.0),
    "int8": Precision(torch.float32, 38.0, ASYMMETRIC),
}

#: The files of an export in stages.
_STAGES = {"features.onnx", "motion.onnx", "synthesis.onnx"}


def export(
    entry: Entry, out: Path, *, precision: str = "fp32", form: str = "whole", calibration: Path | None = None
) -> float:
    """Write a model to `out`: a file of the whole network, or a folder with a file for each stage.

    Args:
        entry: the model.
        out: is replaced, but only by an export that is complete and right.
        precision: one of `PRECISIONS`.
        form: one of `FORMS`.
        calibration: a video or a folder of videos or frames, which eight bits are calibrated with.

    Returns:
        The PSNR in dB of a frame that the exported network made of a real pair, against that of the network in float32.

    Raises:
        ExportError: a graph is not valid, or its frame is not the network's, or there is nothing to calibrate with.
        WeightsError: the weights cannot be read.
        OSError: the place cannot be written to.
    """
    _check_place(out, form)
    first, second = real_pair()
    corner = first[..., :70, :100], second[..., :70, :100]  # enough for a trace; all of a network pads it
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as place:
        made = Path(place) / "made"
        made.mkdir()
        files = write_graphs(entry, made, precision, PRECISIONS[precision], form, corner, calibration)
        fidelity = compare(entry, lambda time: run(files, first, second, time), first, second)
        if not fidelity >= PRECISIONS[precision].least:
            raise ExportError(
                f"the exported network makes other frames than {entry.name}: {fidelity:.1f} dB on a real pair, where "
                f"{precision} should reach {PRECISIONS[precision].least:.0f} dB. Nothing was kept"
            )
        if out.is_dir():  # a folder is not replaced in one step
            os.replace(out, Path(place) / "old")
        os.replace(files["whole"] if form == "whole" else made, out)
    return fidelity


@torch.inference_mode()
def write_graphs(
    entry: Entry,
    folder: Path,
    name: str,
    precision: Precision,
    form: str,
    example: tuple[Tensor, Tensor],
    calibration: Path | None = None,
) -> dict[str, Path]:
    """Write the graphs of a model to a folder.

    Args:
        name: of the precision.
        example: two frames to trace with. If the network pads them, the graphs pad frames; if their sides are multiples
            of `multiple`, the graphs are for such frames alone.

    Returns:
        The files by the names of their graphs.
    """
    if calibration and not precision.eight_bits:
        raise ExportError(f"{name} is not calibrated: leave --calibration away, or choose eight bits")
    pairs = _real_frames(calibration) if precision.eight_bits else []
    properties = {
        "dain.model": entry.name,
        "dain.network": entry.network,
        "dain.weights": hashlib.sha256(entry.path.read_bytes()).hexdigest(),
        "dain.precision": name,
        "dain.version": __version__,
    }
    network = network_of(entry, precision.dtype)
    graphs = FORMS[form](network, *example, torch.tensor([0.4]))
    files = {graph.name: folder / f"{graph.name}.onnx" for graph in graphs}
    for graph in graphs:
        _write(graph, files[graph.name], example[0].shape[2:], properties)
    if precision.eight_bits:
        padded = [[padding(frame, entry).add(frame) for frame in pair] for pair in pairs]
        seen = [_known(files, first, second, torch.tensor([0.5])) for first, second in padded]
        for path in files.values():
            quantise(
                path, [{name: x.numpy() for name, x in known.items()} for known in seen], precision.eight_bits
            )
    return files


def padding(frame: Tensor, entry: Entry) -> Padding:
    """Return what must be added to a frame so that the network pads it no more."""
    return Padding.of(frame, entry.config.multiple)


def _real_frames(calibration: Path | None) -> list[tuple[Tensor, Tensor]]:
    if calibration is None:
        raise ExportError(
            "eight bits are calibrated with real frames: name a video, or a folder, with --calibration"
        )
    try:
        return list(sample_pairs(find_clips(calibration), CALIBRATED))
    except EvaluationError as error:
        raise ExportError(f"there are no real frames to calibrate with: {error}") from error


@torch.inference_mode()
def compare(entry: Entry, make: Callable[[Tensor], Tensor], first: Tensor, second: Tensor) -> float:
    """Return the PSNR in dB of the frame that `make` makes at a time, against the network's own in float32."""
    time = torch.tensor([0.4])
    expected = network_of(entry, torch.float32)(first, second, time.view(-1, 1, 1, 1)).output
    error = (make(time) - expected).square().mean()
    return float(-10 * error.clamp(min=1e-12).log10())


def real_pair() -> tuple[Tensor, Tensor]:
    """Return two frames of a film, (1, 3, 127, 235) in [0, 1]. No side is a multiple of what a network halves."""
    with np.load(Path(__file__).with_name("pair.npz")) as arrays:
        frames = torch.from_numpy(arrays["frames"]).permute(0, 3, 1, 2).float() / 255
    return frames[:1], frames[1:]


def run(files: Mapping[str, Path], first: Tensor, second: Tensor, time: Tensor) -> Tensor:
    """Make a frame on the CPU by the graphs in `files`, which are the whole network or its three stages."""
    return _known(files, first, second, time)["frame"]


def _known(files: Mapping[str, Path], first: Tensor, second: Tensor, time: Tensor) -> dict[str, Tensor]:
    """Return all that goes into graphs and comes out of them, by name."""
    known = {"first": first, "second": second, "time": time, "image": first}
    if "whole" in files:
        return known | _run(files["whole"], known)
    for which in ("first", "second"):
        made = _run(files["features"], {"image": known[which]})
        known |= {f"{which}.{name}": tensor for name, tensor in {"image": known[which], **made}.items()}
    known |= _run(files["motion"], known)
    return known | _run(files["synthesis"], known)


def _run(path: Path, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    arrays = session.run(outputs, {each.name: known[each.name].numpy() for each in session.get_inputs()})
    return {name: torch.from_numpy(array) for name, array in zip(outputs, arrays, strict=True)}


def network_of(entry: Entry, dtype: torch.dtype) -> Network:
    """Return a model's network with its weights, whose layers have `dtype`."""
    with torch.device("meta"):
        network = build(entry.config)
    network.load_state_dict(load_weights(entry.weights, entry.config), assign=True)
    return network.prepare(dtype)


def _write(graph: Graph, path: Path, size: torch.Size, properties: Mapping[str, str]) -> None:
    """Trace a graph, check it, and write it. Sizes, the number of frames and the time stay inputs."""
    axes = {name: {0: "frames", **_sides(name, tensor, size)} for name, tensor in graph.inputs.items()}
    for name, tensor in zip(graph.outputs, _outputs(graph), strict=True):
        if tensor.dim():
            axes[name] = {0: "frames", **_sides(name, tensor, size)}
    with warnings.catch_warnings(), StandardOperators():
        warnings.simplefilter(
            "ignore"
        )  # what is constant in a trace is so on purpose: tests take other sizes
        torch.onnx.export(
            graph.module,
            tuple(graph.inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=axes,
        )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {**properties, "dain.graph": graph.name})
    onnx.save(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True), path)
    try:
        onnx.checker.check_model(path, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the graph {graph.name} is not valid ONNX: {error}") from error


def _outputs(graph: Graph) -> tuple[Tensor, ...]:
    made = graph.module(*graph.inputs.values())
    return (made,) if isinstance(made, Tensor) else made


def _sides(name: str, tensor: Tensor, size: torch.Size) -> dict[int, str]:
    """Return the names of height and width, which all tensors of the frame's size share."""
    if tensor.dim() < 4:
        return {}
    prefix = "" if tensor.shape[2:] == size else f"{name.removeprefix('first.').removeprefix('second.')}."
    return {2: f"{prefix}height", 3: f"{prefix}width"}


def _check_place(out: Path, form: str) -> None:
    """Raise ExportError if something lies at `out` that is no earlier export of the same form."""
    if form == "whole" and out.is_dir():
        raise ExportError(
            f"{out} is a folder: name a file for the whole network, such as {out / 'model.onnx'}"
        )
    if form == "stages" and out.is_file():
        raise ExportError(f"{out} is a file: name a folder for the stages, which are three files")
    if out.is_dir() and (others := {path.name for path in out.iterdir()} - _STAGES):
        raise ExportError(f"{out} holds other files, such as {min(others)}: name a new folder for the export")
