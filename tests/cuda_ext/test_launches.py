"""Every layer of every model has a launch that stays within the shared memory of every architecture.

The functions that choose a launch (cuda_ext/csrc/launch.h) are plain C++: a host compiler builds them here.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cuda_ext.build import ARCHS, ARM_ARCHS
from dain_core.runtime.backends.fused.layers import EIGHT_BITS
from dain_core.runtime.engine import WARM_UP_SIZES
from tests.cuda_ext.launches import (
    MODELS,
    SHARED_MEMORY,
    Convolution,
    convolutions,
    convolutions_of_frames,
    fused,
)

COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
HEADERS = Path(__file__).parents[2] / "cuda_ext" / "csrc"

#: (height, width) of a layer's map: a single pixel, a few tiles, and enough tiles for the whole GPU.
MAPS = [(1, 1), (64, 64), (1080, 1920)]
PROCESSORS = 132
DECLARED = 1024  # bytes of shared memory beside the dynamic ones that a kernel may declare

LARGE_KERNEL = Convolution(64, 64, 11, 11, 1, 2, False)
NETWORKS = [(name, dtype) for name in MODELS for dtype in (torch.float16, EIGHT_BITS)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("there is no C++ compiler on PATH")
    target = tmp_path_factory.mktemp("launches") / "launches.so"
    source = Path(__file__).with_name("launches.cpp")
    flags = ["-std=c++17", "-shared", "-fPIC", "-Wall", "-Werror", f"-I{HEADERS}"]
    subprocess.run([COMPILER, *flags, str(source), "-o", str(target)], check=True)
    found = ctypes.CDLL(str(target))
    found.pointwise_bytes.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int, ctypes.c_int]
    return found


def portable_launch(
    library: ctypes.CDLL, layer: Convolution, height: int, width: int, limit: int
) -> tuple[int, ...]:
    """Rows and pairs of a warp, stages, bytes."""
    found = (ctypes.c_int * 4)()
    groups, outputs = layer.inputs // 16, -(-layer.outputs // 16) * 16
    shape = (groups, outputs, layer.rows, layer.columns, layer.dilation)
    library.portable_launch(height, width, *shape, limit, found)
    return tuple(found)


def matching_launch(library: ctypes.CDLL, channels: int, width: int, limit: int) -> tuple[int, ...]:
    """Channels at a time, bytes."""
    found = (ctypes.c_int * 2)()
    library.matching_launch(channels, width, limit, found)
    return tuple(found)


def test_the_limit_of_every_architecture_is_known() -> None:
    assert SHARED_MEMORY.keys() == {arch.removesuffix("+PTX") for arch in (*ARCHS, *ARM_ARCHS)}


@pytest.mark.parametrize("arch", SHARED_MEMORY)
@pytest.mark.parametrize(("name", "dtype"), NETWORKS)
def test_every_convolution_fits(library: ctypes.CDLL, name: str, dtype: torch.dtype, arch: str) -> None:
    limit, layers = SHARED_MEMORY[arch], convolutions(name, dtype)
    assert len(layers) > 20
    for layer in layers:
        for height, width in MAPS:
            rows, pairs, stages, size = portable_launch(library, layer, height, width, limit)
            assert 0 < size <= limit, (layer, height, width)
            assert pairs in (1, 2, 4) and -(-layer.outputs // 16) % pairs == 0 and stages in (1, 2), layer
            assert rows == 4 or (rows == 1 and (height, width) != MAPS[-1]), (layer, height, width)


@pytest.mark.parametrize(("name", "dtype"), NETWORKS)
def test_every_convolution_fits_on_compute_capability_9_0(
    library: ctypes.CDLL, name: str, dtype: torch.dtype
) -> None:
    limit, pointwise = SHARED_MEMORY["9.0"], 0
    for layer in convolutions(name, dtype):
        assert layer.outputs <= 16 or not layer.wide  # the operator refuses more
        _, groups, columns, _, blocks, phases, lines, _ = layer.hopper_weight
        inputs, outputs = layer.inputs * layer.itemsize // 32, blocks * lines
        for height, width in MAPS:
            shape = (height, width, inputs, outputs, groups, columns, layer.dilation, phases)
            size = library.hopper_bytes(*shape, 4 if layer.wide else 2, PROCESSORS, limit)
            assert 0 < size <= limit - DECLARED, (layer, height, width)
            if layer.rows * layer.columns == 1 and outputs <= 256:
                size = library.pointwise_bytes(2 * inputs, outputs, height * width, PROCESSORS, limit)
                assert 0 <= size <= limit, (layer, height, width)  # without a launch the other kernel runs
                pointwise += size > 0
    assert pointwise > 0


@pytest.mark.parametrize("arch", SHARED_MEMORY)
@pytest.mark.parametrize("name", MODELS)
def test_frames_of_every_level_are_matched(library: ctypes.CDLL, name: str, arch: str) -> None:
    flow, limit = fused(name, torch.float16).flow, SHARED_MEMORY[arch]
    for width, decoder in zip(flow.widths[::-1], flow.decoders, strict=False):
        chunk, size = matching_launch(library, width, decoder.inputs, limit)
        assert chunk > 0 and chunk % 16 == 0 and 0 < size <= limit - DECLARED, (width, arch)


def test_a_block_that_cannot_fit_has_no_launch(library: ctypes.CDLL) -> None:
    """The operator then says so, instead of a launch that fails."""
    assert portable_launch(library, LARGE_KERNEL, 300, 300, 29_120)[3] == 29_120
    assert portable_launch(library, LARGE_KERNEL, 300, 300, 29_119)[3] == 0
    assert matching_launch(library, 128, 224, 30_000)[1] == 0


@pytest.mark.parametrize(
    ("limit", "rows", "stages"),
    [(232_448, 4, 2), (108_160, 4, 2), (108_159, 4, 1), (65_536, 4, 1), (54_079, 1, 1)],
)
def test_less_shared_memory_means_a_smaller_launch(
    library: ctypes.CDLL, limit: int, rows: int, stages: int
) -> None:
    """Of a kernel of 11x11: first the second stage goes, then the large tile."""
    assert portable_launch(library, LARGE_KERNEL, 1080, 1920, limit)[:3:2] == (rows, stages)


@pytest.mark.parametrize("arch", SHARED_MEMORY)
@pytest.mark.parametrize("name", MODELS)
def test_warming_up_launches_what_real_frames_do(library: ctypes.CDLL, name: str, arch: str) -> None:
    """So what fails on a GPU fails before its worker says that it is ready."""

    def launches(height: int, width: int) -> set[tuple[object, ...]]:
        found: set[tuple[object, ...]] = set()
        for layer, *size in convolutions_of_frames(name, torch.float16, height, width):
            *kernel, _ = portable_launch(library, layer, *size, SHARED_MEMORY[arch])
            found.add((layer.wide, *kernel))
        return found

    warm = set().union(*(launches(*size) for size in WARM_UP_SIZES["cuda"]))
    for size in ((120, 160), (272, 640), (480, 640), (720, 1280), (1080, 1920), (2160, 3840), (4320, 7680)):
        assert launches(*size) <= warm, size


@pytest.mark.parametrize(("name", "dtype"), NETWORKS)
def test_warming_up_runs_the_kernels_of_compute_capability_9_0(
    library: ctypes.CDLL, name: str, dtype: torch.dtype
) -> None:
    def kernels(height: int, width: int) -> set[tuple[object, ...]]:
        found: set[tuple[object, ...]] = set()
        for layer, *size in convolutions_of_frames(name, dtype, height, width):
            _, groups, columns, _, blocks, phases, lines, _ = layer.hopper_weight
            inputs, outputs = layer.inputs * layer.itemsize // 32, blocks * lines
            shape = (*size, inputs, outputs, groups, columns, layer.dilation, phases)
            plan = library.hopper_plan(*shape, 4 if layer.wide else 2, PROCESSORS)
            found.add((layer.itemsize, layer.wide, phases, plan))
        return found

    warm = set().union(*(kernels(*size) for size in WARM_UP_SIZES["cuda"]))
    for size in ((120, 160), (272, 640), (480, 640), (720, 1280), (1080, 1920), (2160, 3840), (4320, 7680)):
        assert kernels(*size) <= warm, size
