"""CUDA graphs and functions that run side by side.

A graph launches all kernels of a function at once. It pays where launching kernels takes longer than running them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Aside = TypeVar("Aside")
Here = TypeVar("Here")


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """A copy of `value`, made of tuples and dataclasses, with `function(tensor)` in the place of every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(map_tensors(function, item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: map_tensors(function, getattr(value, field.name)) for field in fields(value)}
        return replace(value, **parts)
    raise TypeError(f"no tensors in {type(value).__name__}: pass tensors in tuples and dataclasses")


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor of `value`, which is made of tuples and dataclasses."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, value)  # type: ignore[func-returns-value]
    return iter(found)


def beside(
    stream: torch.cuda.Stream | None, aside: Callable[[], Aside], here: Callable[[], Here]
) -> tuple[Aside, Here]:
    """Runs two functions, of which neither needs the other, and returns both results.

    Given a stream, `aside` runs there while `here` runs on the current one. That takes the memory of both at
    once. Both may be captured in one graph.
    """
    if stream is None:
        return aside(), here()
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        first = aside()
    second = here()
    current.wait_stream(stream)
    for tensor in tensors(first):
        tensor.record_stream(current)
    return first, second


class Graphed:
    """A function of tensors on a GPU that is captured when it is called the second time at the same sizes.

    The first call lets cuDNN choose its algorithms. Only the graph of the last sizes is kept. Results are copies, which
    later calls do not change. The function must not wait for the GPU. The graph is captured on the current device, and
    one thread at a time may call it.

    Args:
        function: takes and returns tensors in tuples and dataclasses.
        pool: the memory of the graph, from `torch.cuda.graph_pool_handle()`. Functions that are never called at the
            same time may share it.
    """

    def __init__(self, function: Callable[..., Any], pool: Any) -> None:
        self._function, self._pool = function, pool
        self._sizes: list[torch.Size] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Any = None
        self._outputs: Any = None

    def __call__(self, *inputs: Any) -> Any:
        sizes = [tensor.shape for tensor in tensors(inputs)]
        if sizes != self._sizes:
            self._graph, self._inputs, self._outputs = None, None, None
            self._sizes = sizes
            return self._function(*inputs)
        if self._graph is None:
            self._capture(inputs)
        assert self._graph is not None
        for static, given in zip(tensors(self._inputs), tensors(inputs), strict=True):
            static.copy_(given)
        self._graph.replay()
        return map_tensors(torch.clone, self._outputs)

    def _capture(self, inputs: Any) -> None:
        self._inputs = map_tensors(torch.clone, inputs)
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on allocating meanwhile.
        with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
            self._outputs = self._function(*self._inputs)
        self._graph = graph
