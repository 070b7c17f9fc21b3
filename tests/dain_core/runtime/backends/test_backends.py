"""The table of ways to run a network: which blocks have eight bits where nobody chooses."""

from __future__ import annotations

import pytest

from dain_core.network.networks import NETWORKS, with_widths
from dain_core.runtime.backends import eight_bit_blocks

DAIN = NETWORKS["dain"]


@pytest.mark.parametrize("config", [DAIN, with_widths(DAIN, {"rectify_width": 96})])
def test_the_flow_of_the_official_network_stays_in_floats_on_a_cpu(config: object) -> None:
    """Also where it was pruned: eight bits of it lose half a dB on average."""
    assert eight_bit_blocks("int8", config) == ("depth", "context", "kernels", "rectify")  # type: ignore[arg-type]


def test_other_networks_have_eight_bits_in_all_blocks_on_a_cpu() -> None:
    for name, between in (("dain-lite", "kernels"), ("dain-refined", "refine")):
        blocks = eight_bit_blocks("int8", NETWORKS[name])
        assert sorted(blocks) == sorted(("flow", "depth", "context", between, "rectify"))


def test_a_gpu_has_eight_bits_in_what_its_kernels_multiply() -> None:
    assert eight_bit_blocks("fp8", DAIN) == ("depth", "context", "rectify")
    assert eight_bit_blocks("fp8", NETWORKS["dain-lite"]) == ("rectify",)
    assert eight_bit_blocks("fp8", NETWORKS["dain-refined"]) == ()
