"""Finds in the graph of a network which channels belong together: what is added, matched or joined is pruned as one.

The network runs once on small frames, and each operator says what becomes of the channels of its input. A
convolution makes new channels. A sum makes those of its parts the same, so that a residual block and what it is added
to lose the same channels. A concatenation lines them up. An operator that is not known here keeps the channels of its
input from being removed, so what is not understood stays as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dain_core.network.networks import Config, build, widths, with_widths

_aten: Any = torch.ops.aten
_dain: Any = torch.ops.dain


@dataclass(frozen=True)
class Convolution:
    """One use of a convolution.

    Attributes:
        out, seen: the channels that it makes and that it sees.
        taps: the multiplications for each pair of both, per pixel of a frame.
    """

    out: Sequence[int]
    seen: Sequence[int]
    taps: float


@dataclass(frozen=True)
class Group:
    """Channels of one width, any of which can be removed.

    Attributes:
        width: the name of the width that their number is, see `dain_core.network.networks.widths`.
        channels: the channels.
        makers: the names of the weights of the convolutions that make them. Each makes all of them.
    """

    width: str
    channels: frozenset[int]
    makers: tuple[str, ...]


@dataclass(frozen=True)
class Channels:
    """The channels of a network. A channel is a number.

    Attributes:
        convolutions: what the network convolves for a new frame, if one is made between two frames.
        dims: for each parameter and buffer by name, the channels along each of its dimensions that has any.
        groups: the channels that can be removed.
        means: for each channel that is a mean over channels, such as a match of two maps, the channels.
    """

    convolutions: Sequence[Convolution]
    dims: Mapping[str, Mapping[int, Sequence[int]]]
    groups: Sequence[Group]
    means: Mapping[int, Sequence[int]]

    def macs(self, left: Mapping[str, float] | None = None) -> float:
        """Return the multiplications of a new frame, per pixel of it.

        Args:
            left: the shares of their channels that widths keep, by name; 1 for those that are not named.
        """
        shares = left or {}

        def count(widths: Mapping[str, int]) -> float:
            return sum(number * shares.get(width, 1) for width, number in widths.items())

        return sum(taps * count(out) * count(seen) for taps, out, seen in self._counted)

    @cached_property
    def _counted(self) -> list[tuple[float, Counter[str], Counter[str]]]:
        """For each convolution its taps, and how many channels of each width it makes and sees."""
        width_of = {channel: group.width for group in self.groups for channel in group.channels}

        def counted(channels: Sequence[int]) -> Counter[str]:
            return Counter(width_of.get(channel, "") for channel in channels)

        return [(each.taps, counted(each.out), counted(each.seen)) for each in self.convolutions]


def trace(config: Config) -> Channels:
    """Return the channels of the network of a configuration."""
    network: Any = build(config).eval()  # all kinds have the stages that are called below
    side = config.multiple  # such a frame is not padded
    frame = torch.zeros(1, 3, side, side)
    tracer = _Tracer({**dict(network.named_parameters()), **dict(network.named_buffers())}, side**2)
    with torch.no_grad(), tracer:
        features = network.features(frame)
        network.synthesise(features, features, network.motion(features, features), 0.5)
    return tracer.channels(_widths_of_outputs(config, tracer.made))


def _widths_of_outputs(config: Config, made: Iterable[tuple[str, int]]) -> dict[tuple[str, int], str]:
    """Return for weights and the dimension of their outputs the name of the width that it is, where it is one."""
    old = widths(config)
    names = list(old)
    # Every width grows by another number, so a growth says which width it is of.
    new = {name: old[name] + index + 1 for index, name in enumerate(names)}
    with torch.device("meta"):
        before, after = (dict(build(each).named_parameters()) for each in (config, with_widths(config, new)))
    found = {}
    for weight, dim in made:
        growth = after[weight].shape[dim] - before[weight].shape[dim]
        if growth:
            found[weight, dim] = names[growth - 1]
    return found


class _Tracer(TorchDispatchMode):
    """Follows channels through the operators that run while it is on. Channels that turn out to be one are joined.

    Args:
        state: the parameters and buffers of the network by name.
        pixels: the pixels of a frame.
    """

    def __init__(self, state: Mapping[str, Tensor], pixels: int) -> None:
        super().__init__()
        self._state, self._pixels = state, pixels
        self._names = {
            id(tensor): name for name, tensor in state.items()
        }  # also of what is computed from them
        self._changed: set[int] = set()  # the ids of tensors that were computed from a weight
        self._of: dict[int, list[int]] = {}  # the channels of activations, by id
        self._alive: list[Any] = []  # an id is that of one tensor as long as the tensor lives
        self._parents: list[int] = []
        self._fixed: set[int] = set()
        self._dims: dict[str, dict[int, list[int]]] = {}
        self._convolutions: list[Convolution] = []
        self.means: dict[int, list[int]] = {}
        # Weights that make channels, and the dimension of their outputs, in the order of their use.
        self.made: dict[tuple[str, int], None] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        self._alive += [args, made]
        rule = _RULES.get(func.overloadpacket)
        if rule is None:
            rule = _pointwise if torch.Tag.pointwise in func.tags else _unknown
        if not self._derive(func, args, made):
            rule(self, args, made)
        return made

    def _derive(self, func: Any, args: Sequence[Any], made: Any) -> bool:
        """Note what is computed from a weight alone; return whether the operator did that."""
        given = list(_tensors(args))
        weights = [tensor for tensor in given if id(tensor) in self._names]
        if not weights or len(given) > len(weights):
            return False
        for tensor in _tensors([made]):
            self._names[id(tensor)] = self._names[id(weights[0])]
            if func.overloadpacket is not _aten.constant_pad_nd or id(weights[0]) in self._changed:
                self._changed.add(id(tensor))
        return True

    def new(self, count: int, fixed: bool = False) -> list[int]:
        start = len(self._parents)
        made = list(range(start, start + count))
        self._parents += made
        if fixed:
            self._fixed.update(made)
        return made

    def root(self, channel: int) -> int:
        while self._parents[channel] != channel:
            self._parents[channel] = channel = self._parents[self._parents[channel]]
        return channel

    def join(self, one: Iterable[int], other: Iterable[int]) -> None:
        for a, b in zip(one, other, strict=True):
            self._parents[self.root(a)] = self.root(b)

    def of(self, tensor: Tensor) -> list[int]:
        """Return the channels of an activation. Those of a tensor that is not known cannot be removed."""
        if id(tensor) not in self._of:
            self._of[id(tensor)] = self.new(tensor.shape[1], fixed=True)
        return self._of[id(tensor)]

    def knows(self, tensor: Tensor) -> bool:
        return id(tensor) in self._of

    def give(self, tensor: Tensor, channels: list[int]) -> None:
        if self.knows(tensor):  # the operator works in place
            self.join(self._of[id(tensor)], channels)
        self._of[id(tensor)] = channels

    def freeze(self, tensor: Tensor) -> None:
        self._fixed.update(self._of.get(id(tensor), ()))

    def belong(self, tensor: Tensor | None, dim: int, channels: list[int]) -> None:
        """Note the channels along a dimension of a parameter or buffer."""
        if tensor is None:
            return
        name = self._names[id(tensor)]
        dims = self._dims.setdefault(name, {})
        channels = channels[: self._state[name].shape[dim]]  # without those that a pad has added
        if dim in dims:
            self.join(dims[dim], channels)
        dims[dim] = channels

    def convolve(self, args: Sequence[Any], made: Tensor) -> None:
        x, weight, bias, transposed = args[0], args[1], args[2], args[6]
        out_dim, seen_dim = (1, 0) if transposed else (0, 1)
        seen = self.of(x)
        whole = id(weight) not in self._changed
        out = self.new(made.shape[1], fixed=not whole)
        if whole:
            self.belong(weight, out_dim, out)
            self.made[self._names[id(weight)], out_dim] = None
            self.belong(bias, 0, out)
        # A pad of zeros lets a weight see more channels than it has. What else a weight goes through before it is used
        # concerns its outputs.
        self.belong(weight, seen_dim, seen)
        self.give(made, out)
        places = x if transposed else made
        taps = (
            weight.shape[2]
            * weight.shape[3]
            * places.shape[0]
            * places.shape[2]
            * places.shape[3]
            / self._pixels
        )
        self._convolutions.append(Convolution(out, seen, taps))

    def channels(self, outputs: Mapping[tuple[str, int], str]) -> Channels:
        """Return what was found, given the result of `_widths_of_outputs`."""

        def roots(channels: Iterable[int]) -> list[int]:
            return [self.root(channel) for channel in channels]

        dims = {
            name: {dim: roots(channels) for dim, channels in each.items()}
            for name, each in self._dims.items()
        }
        fixed = set(roots(self._fixed))
        together: dict[frozenset[int], list[str]] = {}
        width_of: dict[frozenset[int], str] = {}
        for (name, dim), width in outputs.items():
            channels = frozenset(dims[name][dim])
            together.setdefault(channels, []).append(name)
            width_of[channels] = width
        groups = [Group(width_of[channels], channels, tuple(makers)) for channels, makers in together.items()]
        # A width is one number, so it stays if a single channel that it counts must stay.
        stay = {group.width for group in groups if group.channels & fixed}
        return Channels(
            [Convolution(roots(each.out), roots(each.seen), each.taps) for each in self._convolutions],
            dims,
            [group for group in groups if group.width not in stay],
            {self.root(channel): roots(channels) for channel, channels in self.means.items()},
        )


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _keep(tracer: _Tracer, args: Sequence[Any], made: Any) -> None:
    """The result has the channels of the first argument."""
    if tracer.knows(args[0]):
        tracer.give(next(_tensors([made])), tracer.of(args[0]))


def _normalise(tracer: _Tracer, args: Sequence[Any], made: Any) -> None:
    x, *statistics = args
    for tensor in statistics[:4]:
        tracer.belong(tensor, 0, tracer.of(x))
    _keep(tracer, args, made)


def _pointwise(tracer: _Tracer, args: Sequence[Any], made: Tensor) -> None:
    """Arguments with as many channels as the result have the same channels as it."""
    given = [tensor for tensor in _tensors(args) if tensor.dim() == 4 and made.dim() == 4]
    parts = [tensor for tensor in given if tensor.shape[1] == made.shape[1]]
    if not any(tracer.knows(tensor) for tensor in given):
        return
    for tensor in given:
        if tensor.shape[1] != made.shape[1]:
            tracer.freeze(tensor)
    for other in parts[1:]:
        tracer.join(tracer.of(other), tracer.of(parts[0]))
    tracer.give(made, tracer.of(parts[0]))


def _concatenate(tracer: _Tracer, args: Sequence[Any], made: Tensor) -> None:
    parts, dim = args[0], args[1] if len(args) > 1 else 0
    if made.dim() != 4:
        return
    if dim == 1:
        tracer.give(made, [channel for part in parts for channel in tracer.of(part)])
    else:
        _pointwise(tracer, parts, made)


def _split(tracer: _Tracer, args: Sequence[Any], made: Sequence[Tensor]) -> None:
    x, dim = args[0], args[2] if len(args) > 2 else 0
    if not tracer.knows(x):
        return
    start = 0
    for part in made:
        stop = start + part.shape[1]
        tracer.give(part, tracer.of(x)[start:stop] if dim == 1 else tracer.of(x))
        start = stop


def _slice(tracer: _Tracer, args: Sequence[Any], made: Tensor) -> None:
    x, rest = args[0], list[Any](args[1:])
    dim, start, stop, step = rest + [0, None, None, 1][len(rest) :]
    if tracer.knows(x):
        tracer.give(made, tracer.of(x)[start:stop:step] if dim == 1 else tracer.of(x))


def _pad(tracer: _Tracer, args: Sequence[Any], made: Tensor) -> None:
    x = args[0]
    if tracer.knows(x):
        tracer.give(made, tracer.of(x) + tracer.new(made.shape[1] - x.shape[1], fixed=True))


def _match(tracer: _Tracer, args: Sequence[Any], made: Tensor) -> None:
    """Channel by channel the maps are multiplied. The result is the mean for each displacement."""
    tracer.join(tracer.of(args[0]), tracer.of(args[1]))
    tracer.give(made, tracer.new(made.shape[1], fixed=True))
    tracer.means.update(dict.fromkeys(tracer.of(made), tracer.of(args[0])))


def _warp(tracer: _Tracer, args: Sequence[Any], made: Tensor) -> None:
    """A map keeps its channels. Flow and kernels have theirs by what they mean."""
    image, *others = [each for each in args if isinstance(each, Tensor)]
    for tensor in others:
        tracer.freeze(tensor)
    _keep(tracer, (image,), made)


def _make(tracer: _Tracer, args: Sequence[Any], made: Any) -> None:
    """The result does not depend on the values of the arguments."""


def _unknown(tracer: _Tracer, args: Sequence[Any], made: Any) -> None:
    for tensor in _tensors(args):
        tracer.freeze(tensor)


_RULES: Mapping[Any, Callable[[_Tracer, Sequence[Any], Any], None]] = {
    _aten.convolution: _Tracer.convolve,
    _aten.cat: _concatenate,
    _aten.split: _split,
    _aten.split_with_sizes: _split,
    _aten.slice: _slice,
    _aten.constant_pad_nd: _pad,
    **dict.fromkeys((_aten.leaky_relu, _aten.leaky_relu_), _pointwise),  # PyTorch 2.11 does not tag them so
    _dain.correlation: _match,
    _dain.sample: _warp,
    _dain.adaptive_warp: _warp,
    _aten.grid_sampler_2d: _warp,
    _aten.native_batch_norm: _normalise,
    _aten._native_batch_norm_legit_no_training: _normalise,
    **dict.fromkeys((_aten.ones_like, _aten.zeros_like, _aten.empty_like, _aten.new_zeros, _aten.new_empty), _make),
    **dict.fromkeys(
        (_aten.clone, _aten._to_copy, _aten.detach, _aten.alias, _aten.max_pool2d_with_indices, _aten.avg_pool2d,
         _aten.upsample_bilinear2d, _aten.upsample_nearest2d, _aten.replication_pad2d),
        _keep,
    ),
}  # fmt: skip
