"""What is counted of a network, and what follows from a data sheet."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from worker.bench import roofline
from worker.bench.cli import bench
from worker.bench.roofline import DEVICES, Device, Traffic


def test_bytes_are_those_that_operators_read_and_write() -> None:
    weights = nn.Linear(4, 4, bias=False)
    with torch.inference_mode(), Traffic(list(weights.parameters())) as traffic:
        x = torch.zeros(2, 4)  # 32 bytes written
        y = x.T.T[:, :]  # views move nothing
        torch.add(y, 1)  # 32 read, 32 written
        y.add_(1)  # in place: 32
        weights(x)  # 32 read, 32 written; the weights are not counted
        torch.empty(9)
    assert traffic.bytes == 6 * 32


def test_a_network_moves_more_in_fp32_than_the_fused_one_in_fp16() -> None:
    fused, plain = (roofline.bytes_per_pixel("dain-lite", gpu) for gpu in (True, False))
    assert 1000 < fused < plain / 2


@pytest.mark.parametrize(("tflops", "bandwidth", "by_bytes"), [(1e6, 100, True), (0.1, 1e6, False)])
def test_the_scarcer_of_two_bounds_a_device(tflops: float, bandwidth: float, by_bytes: bool) -> None:
    operations, moved = roofline.bound_ms("dain-lite", 1920 * 1080, Device("it", tflops, bandwidth))
    assert (moved > operations) is by_bytes


def test_where_it_was_measured_the_expectation_is_the_measurement() -> None:
    bound = max(roofline.bound_ms("dain-lite", 1920 * 1080, DEVICES[-1]))
    share = roofline.share("dain-lite", gpu=True)
    assert share and bound / share == pytest.approx(roofline.MS_1080P["dain-lite"])
    assert roofline.share("dain-unheard-of", gpu=True) is None


def test_the_table_has_every_device_and_one_of_yours() -> None:
    arguments = ["roofline", "--model", "dain-lite", "--size", "720p", "--tflops", "1", "--bandwidth", "50"]
    shown = CliRunner().invoke(bench, arguments)
    assert shown.exit_code == 0, shown.output
    for name in ("yours", "Jetson Orin Nano", "Raspberry Pi 5"):
        assert name in shown.output
    half = CliRunner().invoke(bench, ["roofline", "--model", "dain-lite", "--tflops", "1"])
    assert half.exit_code == 2 and "needs both --tflops and --bandwidth" in half.output
