"""Static calibration: what ranges the inputs of convolutions have on real frames.

A histogram over magnitudes is kept of every input, from which a range is chosen when all frames were seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dain_core.network.networks import Network

#: Magnitudes are counted in 16 bins an octave, from 2^-24 to 2^24.
_BINS, _OCTAVES = 16, 24
#: At most so many values of a tensor are counted; its ends are always seen.
_COUNTED = 2**16
#: How many times larger than most channels one may be: where pixels of flow lie beside colours, it is hundreds.
_MIXED = 8


@dataclass
class Histogram:
    """The values that the input of a convolution had.

    Attributes:
        counts: how many values were of a magnitude, (2, bins): negative ones, and others.
        low, high: the ends.
        channels: the greatest magnitude in each channel.
    """

    counts: Tensor = field(default_factory=lambda: torch.zeros(2, 2 * _OCTAVES * _BINS))
    low: float = 0.0
    high: float = 0.0
    channels: Tensor = field(default_factory=lambda: torch.zeros(1))

    def add(self, x: Tensor) -> None:
        self.channels = self.channels.maximum(x.abs().amax((0, 2, 3)).cpu())
        low, high = x.aminmax()
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))
        values = x.detach().flatten()[:: max(x.numel() // _COUNTED, 1)].float()
        bins = ((values.abs().clamp(min=2.0**-_OCTAVES).log2() + _OCTAVES) * _BINS).long()
        bins = bins.clamp(max=self.counts.shape[1] - 1)
        for sign, of_it in enumerate((values < 0, values >= 0)):
            self.counts[sign] += torch.bincount(bins[of_it], minlength=self.counts.shape[1]).cpu()

    @property
    def is_mixed(self) -> bool:
        """Whether channels are of such different sizes that one scale for all of them is too coarse for most."""
        return bool(self.channels.max() > _MIXED * self.channels.median())

    def percentile(self, share: float) -> tuple[float, float]:
        """The range within which all but `1 - share` of the values on either side lie."""
        ends = []
        for counts, end in zip(self.counts, (-self.low, self.high), strict=True):
            beyond = counts.flip(0).cumsum(0).flip(0)  # of each bin, with itself
            allowed = (1 - share) * self.counts.sum()
            inside = int((beyond > allowed).sum())
            ends.append(min(end, float(2.0 ** (inside / _BINS - _OCTAVES))) if inside else 0.0)
        return -ends[0], ends[1]

    def least_error(self) -> tuple[float, float]:
        """The range whose rounding to 256 steps has the least mean square error."""
        magnitudes = 2.0 ** ((torch.arange(self.counts.shape[1]) + 0.5) / _BINS - _OCTAVES)
        values = torch.stack((-magnitudes, magnitudes))

        def error(share: float) -> float:
            low, high = share * self.low, share * self.high
            step = max(high - low, 1e-12) / 255
            rounding = step**2 / 12  # inside the range; beyond it the distance from its end
            beyond = (values - values.clamp(low, high)).square()
            return float((self.counts * torch.where(beyond > 0, beyond, rounding)).sum())

        best = min((0.02 * share for share in range(5, 51)), key=error)
        return best * self.low, best * self.high


#: How a range is chosen from what was seen, by name.
METHODS: dict[str, Callable[[Histogram], tuple[float, float]]] = {
    "max": lambda seen: (seen.low, seen.high),
    "99.999": lambda seen: seen.percentile(0.99999),
    "99.99": lambda seen: seen.percentile(0.9999),
    "99.9": lambda seen: seen.percentile(0.999),
    "mse": Histogram.least_error,
}


def histograms(network: Network, pairs: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Histogram]:
    """Have `network` make the frame in the middle of each pair; return what its convolutions saw, by their names.

    Args:
        network: in float32, in evaluation mode.
        pairs: frames, (1, 3, H, W) in [0, 1], on the device of the network.
    """
    seen: dict[str, Histogram] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, given: seen.setdefault(name, Histogram()).add(given[0])

    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.inference_mode():
            for first, second in pairs:
                network(first, second, 0.5)
    finally:
        for hook in hooks:
            hook.remove()
    return seen
