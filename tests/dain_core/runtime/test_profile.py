"""Profiles: a model runs with the precisions of its blocks, on the device and with the weights that they are of."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dain_core
from dain_core.runtime import profile as module
from dain_core.runtime.backends import int8
from dain_core.runtime.backends.stages import BackendError
from dain_core.runtime.calibration import digest_of
from dain_core.runtime.engine import Interpolator
from dain_core.runtime.profile import Profile, ProfileError, device_class, read_profile
from dain_core.weights.registry import registry

CPU = torch.device("cpu")
MIXED = {"flow": "fp32", "depth": "bf16", "context": "fp32", "kernels": "bf16", "rectify": "bf16"}


def profile_of(model: str, **blocks: str) -> Profile:
    return Profile(
        device=device_class(CPU),
        model=model,
        weights=digest_of(registry()[model]),
        version=dain_core.__version__,
        blocks=blocks,
        size=(64, 64),
        milliseconds=5.0,
        before=9.0,
        loss=0.01,
    )


def dtypes(engine: Interpolator) -> dict[str, set[torch.dtype]]:
    network: Any = engine._stages.model  # type: ignore[attr-defined]
    return {
        name: {layer.weight.dtype for layer in block.modules() if type(layer) is nn.Conv2d}
        for name, block in network.named_children()
    }


@pytest.mark.parametrize("model", ["dain-lite", "dain-refined"])
def test_each_block_has_its_precision(model: str) -> None:
    blocks = {**MIXED, "refine": "bf16"}
    if model == "dain-lite":
        del blocks["refine"]
    else:
        del blocks["kernels"]
    torch.manual_seed(0)
    first, second = torch.rand(2, 1, 3, 40, 60)
    exact = Interpolator.load(model, device="cpu", precision="fp32").interpolate(first, second, [0.5])
    engine = Interpolator.load(model, device="cpu", profile=profile_of(model, **blocks))
    made = engine.interpolate(first, second, [0.5])
    assert 0 < (made - exact).abs().mean() < 0.02
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}
    found = dtypes(engine)
    assert all(found[name] <= {wanted[each]} for name, each in blocks.items()) and found["context"]
    wide = Interpolator.load(model, device="cpu", blocks=dict.fromkeys(blocks, "fp32"))
    assert wide.precision == "fp32"
    torch.testing.assert_close(wide.interpolate(first, second, [0.5]), exact)


@pytest.mark.skipif(not int8.has_instructions(), reason="this CPU has no instructions for eight bits")
def test_a_block_can_have_eight_bits_on_a_cpu() -> None:
    engine = Interpolator.load("dain-lite", device="cpu", blocks={**MIXED, "kernels": "int8"})
    network: Any = engine._stages.model  # type: ignore[attr-defined]
    whole = {
        name
        for name, block in network.named_children()
        if any(isinstance(layer, int8.Int8Conv2d) for layer in block.modules())
    }
    assert (whole, engine.precision) == ({"kernels"}, "int8")
    frame = torch.rand(1, 3, 40, 60)
    assert engine.interpolate(frame, frame, [0.5]).isfinite().all()


def test_what_is_not_finite_is_made_again_in_float32() -> None:
    engine = Interpolator.load("dain-lite", device="cpu", blocks=MIXED)
    assert engine._exact.precision == "fp32" and dtypes(engine._exact)["rectify"] == {torch.float32}


def test_another_model_is_loaded_as_without_a_profile() -> None:
    engine = Interpolator.load(
        "dain-lite", device="cpu", precision="fp32", profile=profile_of("dain", **MIXED)
    )
    assert dtypes(engine)["rectify"] == {torch.float32}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"device": "NVIDIA H200"}, "was measured on NVIDIA H200, and this is .*: run `dain tune` here"),
        ({"weights": "0" * 64}, "with other weights than it has here: run `dain tune` again"),
        ({"version": "0.0.9"}, "with version 0.0.9, and this is"),
    ],
)
def test_a_profile_of_something_else_is_refused(changed: dict[str, str], message: str) -> None:
    profile = replace(profile_of("dain-lite", **MIXED), **changed)  # type: ignore[arg-type]
    with pytest.raises(ProfileError, match=message):
        Interpolator.load("dain-lite", device="cpu", profile=profile)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({**MIXED, "wings": "fp32"}, "'wings' is none of dain-lite: its blocks are context, depth"),
        ({"flow": "fp32"}, "'context' has no precision: its blocks are"),
        ({**MIXED, "flow": "fp4"}, "has no precision 'fp4' for a block: choose int8 or of bf16, fp32"),
    ],
)
def test_blocks_and_precisions_that_there_are_not_are_refused(blocks: dict[str, str], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        Interpolator.load("dain-lite", device="cpu", blocks=blocks)


def test_a_profile_comes_back_from_its_file(tmp_path: Path) -> None:
    path, profile = tmp_path / "lite.json", profile_of("dain-lite", **MIXED)
    profile.write(path)
    assert replace(read_profile(path), size=(64, 64)) == profile
    assert [each.name for each in tmp_path.iterdir()] == ["lite.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "dain-profile"}', '{"kind": "dain-calibration"}'])
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ProfileError, match="is no profile of `dain tune`"):
        read_profile(tmp_path / "x.json")
    with pytest.raises(ProfileError, match="cannot be read: No such file.*dain tune"):
        read_profile(tmp_path / "absent.json")


def test_a_profile_whose_blocks_are_odd_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    profile_of("dain-lite", **MIXED).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"blocks": {"flow": 32}}))
    with pytest.raises(ProfileError, match="is no profile"):
        read_profile(path)


def test_the_class_of_a_cpu_is_its_name_and_its_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_cpu_name", lambda: "AMD EPYC")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True, "amx_bf16": False})
    assert device_class(CPU) == "AMD EPYC with avx512_vnni"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {})
    assert device_class(CPU) == "AMD EPYC with no instructions for narrow numbers"


def test_a_profile_for_another_backend_is_refused() -> None:
    with pytest.raises(ProfileError, match="backend onnxruntime.*DAIN_PROFILE"):
        Interpolator.load("dain-lite", backend="onnxruntime", profile=profile_of("dain-lite", **MIXED))
