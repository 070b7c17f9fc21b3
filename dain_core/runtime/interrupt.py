"""A network on a CPU that can be stopped soon: between two looks there is never more than a moment's work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

#: Multiplications between two looks: half a second at worst, where a convolution has no fast path on a core.
MULTIPLICATIONS = 2_000_000_000
#: Elements that are copied between two looks.
ELEMENTS = 10_000_000


class Interruptible(TorchFunctionMode):
    """While this lasts, `check` is called before every operation of this thread; it may raise to stop.

    At 3840x2160 a single convolution can take ten seconds. So a long one is computed in bands of rows, with a look
    before each, and so are large tensors of several.

        with Interruptible(check):
            network(frame)
    """

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__()
        self._check = check

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self._check()
        long = {torch.conv2d: self._convolve, torch.cat: self._concatenate}
        return long.get(func, func)(*args, **(kwargs or {}))

    def _convolve(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        whole = torch.empty_like(input, device="meta")
        shape = F.conv2d(whole, weight.to("meta"), None, stride, padding, dilation, groups).shape
        bands = ceil(shape[0] * shape[2] * shape[3] * weight.numel() / MULTIPLICATIONS)
        if bands == 1 or isinstance(padding, str):
            return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
        (step, _), (above, beside), (spread, _) = map(_pair, (stride, padding, dilation))
        reach = spread * (weight.shape[2] - 1) + 1

        def convolve(start: int, stop: int) -> Tensor:
            first, end = start * step - above, (stop - 1) * step - above + reach
            rows = input[:, :, max(first, 0) : end]
            rows = F.pad(rows, (0, 0, max(-first, 0), max(end - input.shape[2], 0)))
            return torch.conv2d(rows, weight, bias, stride, (0, beside), dilation, groups)

        return self._in_bands(shape, bands, convolve)

    def _concatenate(self, tensors: tuple[Tensor, ...], dim: int = 0) -> Tensor:
        bands = ceil(sum(tensor.numel() for tensor in tensors) / ELEMENTS)
        if bands == 1 or dim != 1 or tensors[0].dim() != 4:
            return torch.cat(tensors, dim)
        shape = torch.cat([tensor.to("meta") for tensor in tensors], 1).shape
        return self._in_bands(
            shape, bands, lambda a, b: torch.cat([tensor[:, :, a:b] for tensor in tensors], 1)
        )

    def _in_bands(self, shape: Sequence[int], bands: int, make: Callable[[int, int], Tensor]) -> Tensor:
        """The tensor of this shape whose rows from `start` to before `stop` are `make(start, stop)`."""
        made: Tensor | None = None
        for start, stop in _bands(shape[2], bands):
            self._check()
            band = make(start, stop)
            if made is None:
                made = torch.empty(shape, dtype=band.dtype, memory_format=_order(band))
            made[:, :, start:stop] = band
        assert made is not None
        return made


def _order(tensor: Tensor) -> torch.memory_format:
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _bands(rows: int, bands: int) -> list[tuple[int, int]]:
    """First row and row after the last of each of about so many bands of equal height."""
    height = ceil(rows / min(bands, rows))
    return [(start, min(start + height, rows)) for start in range(0, rows, height)]
