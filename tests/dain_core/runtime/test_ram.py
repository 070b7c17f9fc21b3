"""What main memory there is: the system's, and what control groups leave of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dain_core.network.networks import NETWORKS, with_widths
from dain_core.network.refined import RefinedConfig
from dain_core.runtime import ram
from dain_core.runtime.memory import FrameTooLargeError


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{content}\n")


def test_every_group_around_the_process_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/service/worker\n")
    group(tmp_path / "service" / "worker", memory_max="max", memory_current=5, memory_stat="inactive_file 1")
    group(tmp_path / "service", memory_max=1000, memory_current=600, memory_stat="anon 3\ninactive_file 100")
    assert list(ram._left_in_groups(tmp_path, own)) == [500]


def test_groups_of_the_first_version_count_too(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("3:cpu,cpuacct:/x\n2:memory:/somewhere/else\n0::/\n")
    group(
        tmp_path / "memory",
        memory_limit_in_bytes=900,
        memory_usage_in_bytes=300,
        memory_stat="total_inactive_file 7",
    )
    assert list(ram._left_in_groups(tmp_path, own)) == [607]


def test_what_is_left_is_at_most_what_the_machine_has() -> None:
    assert 0 < ram.usable_ram() < ram._available() + ram.resident()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_larger_frame_needs_more(name: str) -> None:
    config = NETWORKS[name]
    needs = [ram.NEEDS[config].bytes(height, 2 * height) for height in (64, 540, 1080, 4320)]
    assert needs == sorted(needs) and needs[0] < 2**30 < needs[-1]
    ram.check_fits(config, 540, 1080, needs[1])
    with pytest.raises(FrameTooLargeError, match="1080x540.*GPU.*smaller model.*scale the video down"):
        ram.check_fits(config, 540, 1080, needs[1] - 1)


def test_a_smaller_form_of_a_network_has_a_need_and_so_has_a_wider_one() -> None:
    """A need of nothing would let any frame in."""
    whole = NETWORKS["dain-refined"]
    assert isinstance(whole, RefinedConfig)
    base = replace(whole.base, flow_finest=3, depth_scale=8)
    small = replace(whole, base=base, refine=(32, 48, 64, 96, 96), residuals=(1, 2, 2, 3, 3), kernels=2)
    wider = replace(whole, refine=(96, 96, 96, 128, 128))
    for config in (small, wider):
        assert ram.needed_bytes(config, 540, 1080) == ram.needed_bytes(whole, 540, 1080) > 2**29


def test_a_pruned_network_needs_what_it_was_pruned_from_needs() -> None:
    narrow = with_widths(NETWORKS["dain-lite"], {"kernel_widths.3": 32})
    needed = ram.NEEDS[NETWORKS["dain-lite"]].bytes(540, 1080)
    ram.check_fits(narrow, 540, 1080, needed)
    with pytest.raises(FrameTooLargeError, match="1080x540"):
        ram.check_fits(narrow, 540, 1080, needed - 1)
