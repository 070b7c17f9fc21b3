"""Names of devices: the ones that are there, and the way out where one is not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dain_core.runtime.devices import DeviceError, is_unified, named_device, usable_devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("dain_core.runtime.devices.backend", lambda: "cuda")


@pytest.mark.parametrize(
    ("name", "device"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
@pytest.mark.usefixtures("two_gpus")
def test_a_name_is_one_device(name: str, device: str) -> None:
    assert named_device(name) == torch.device(device)


@pytest.mark.parametrize("integrated", [True, False])
def test_a_jetsons_memory_is_the_machines(integrated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(is_integrated=int(integrated))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert is_unified(torch.device("cuda:0")) is integrated
    assert is_unified(torch.device("cpu"))


def test_without_a_gpu_a_cpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert named_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "called 'gpu': choose auto"),
        ("mps", "called 'mps'"),
        ("cuda:2", "no cuda:2: the last GPU is cuda:1"),
    ],
)
@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        named_device(name)


@pytest.mark.parametrize(("operators", "devices"), [("cuda", ["cuda:0", "cuda:1"]), ("cpu", ["cpu"])])
@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_usable_once_its_operators_are_built(
    monkeypatch: pytest.MonkeyPatch, operators: str, devices: list[str]
) -> None:
    monkeypatch.setattr("dain_core.runtime.devices.backend", lambda: operators)
    assert usable_devices() == devices


def test_a_gpu_that_cannot_be_used_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dain_core.runtime.devices.backend", lambda: "cpu")
    with pytest.raises(DeviceError, match="cuda_ext.build"):
        named_device("cuda")
