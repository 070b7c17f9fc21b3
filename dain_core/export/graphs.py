"""The graphs of a network: the whole of it, and the engine's three stages, as modules of tensors alone.

Tensors that one stage hands on to another have the same name in both. A stage sees those of two frames as
``first.NAME`` and ``second.NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from dain_core.network.model import DAIN, Features, Motion
from dain_core.network.networks import Config, Network, build
from dain_core.network.refined import FrameFeatures

#: The features of a frame that a stage reads, as fields of the network's features, besides the image.
_READ = {
    "motion": ("pyramid",),
    "synthesis": ("inverse_depth", "context"),
}


@dataclass(frozen=True)
class Graph:
    """A module to be exported, with inputs that serve as an example.

    Attributes:
        name: of the stage, or "whole".
        module: takes the inputs and returns the outputs, one after another.
        inputs: by name.
        outputs: their names.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Sequence[str]


def named(value: Any) -> dict[str, Tensor]:
    """Return the tensors of features or of a motion by name; those of a tuple are numbered."""
    tensors: dict[str, Tensor] = {}
    for field in fields(value):
        part = getattr(value, field.name)
        if isinstance(part, Tensor):
            tensors[field.name] = part
        else:
            tensors |= {f"{field.name}.{number}": tensor for number, tensor in enumerate(part)}
    return tensors


def _gathered(tensors: Mapping[str, Tensor], prefix: str) -> Any:
    """Return the tensor called `prefix`, or the tuple of those that are called so with a number."""
    if prefix in tensors:
        return tensors[prefix]
    return tuple(tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == prefix)


class _Whole(nn.Module):
    """Both frames and the time in, the frame at that time out."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> Tensor:
        network: Any = self.network
        one, two = network.features(first), network.features(second)
        frame: Tensor = network.synthesise(one, two, network.motion(one, two), time.view(-1, 1, 1, 1)).output
        return frame


class _FeaturesStage(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        tensors = named(self.network.features(image))
        del tensors["image"]
        return tuple(tensors.values())


class _PairStage(nn.Module):
    """A stage that sees tensors of two frames, and others.

    Args:
        names: of its inputs, in their order.
    """

    def __init__(self, network: Network, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, names
        self.features: type[Any] = Features if isinstance(network, DAIN) else FrameFeatures

    def frame(self, which: str, tensors: Mapping[str, Tensor]) -> Any:
        own = {
            name.removeprefix(f"{which}."): value for name, value in tensors.items() if name.startswith(which)
        }
        return self.features(**{field.name: _gathered(own, field.name) for field in fields(self.features)})


class _MotionStage(_PairStage):
    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        network: Any = self.network
        tensors = dict(zip(self.names, inputs, strict=True))
        motion = network.motion(self.frame("first", tensors), self.frame("second", tensors))
        return tuple(named(motion).values())


class _SynthesisStage(_PairStage):
    """Returns, beside the frame, a number that is finite if the frame can be trusted."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        network: Any = self.network
        tensors = dict(zip(self.names, inputs, strict=True))
        motion = Motion(_gathered(tensors, "flows"), _gathered(tensors, "kernels"))
        first, second = self.frame("first", tensors), self.frame("second", tensors)
        frame = network.synthesise(first, second, motion, tensors["time"].view(-1, 1, 1, 1)).output
        return frame, torch.stack([tensor.sum() for tensor in (frame, *motion.flows)]).sum()


def whole(network: Network, first: Tensor, second: Tensor, time: Tensor) -> list[Graph]:
    """Return the graph of the whole network, with frames (N, 3, H, W) and times (N,) as an example."""
    inputs = {"first": first, "second": second, "time": time}
    return [Graph("whole", _Whole(network), inputs, ["frame"])]


def stages(network: Network, first: Tensor, second: Tensor, time: Tensor) -> list[Graph]:
    """Return the graphs of the three stages, with frames (N, 3, H, W) and times (N,) as an example."""
    one, two = network.features(first), network.features(second)
    motion = named(network.motion(one, two))  # type: ignore[arg-type]
    frames = {
        f"{which}.{name}": x
        for which, of in (("first", one), ("second", two))
        for name, x in named(of).items()
    }

    def read(stage: str) -> dict[str, Tensor]:
        kept = ("image", *_READ[stage])
        return {name: tensor for name, tensor in frames.items() if name.split(".")[1] in kept}

    pair, all_of_it = read("motion"), {**read("synthesis"), **motion, "time": time}
    return [
        Graph(
            "features",
            _FeaturesStage(network),
            {"image": first},
            [name for name in named(one) if name != "image"],
        ),
        Graph("motion", _MotionStage(network, list(pair)), pair, list(motion)),
        Graph("synthesis", _SynthesisStage(network, list(all_of_it)), all_of_it, ["frame", "checksum"]),
    ]


FORMS: dict[str, Callable[[Network, Tensor, Tensor, Tensor], list[Graph]]] = {
    "whole": whole,
    "stages": stages,
}


def input_shapes(config: Config, form: str, height: int, width: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """Return the shapes of the inputs of each graph for one pair of frames of a size, without computing anything."""
    with FakeTensorMode(), torch.no_grad():
        frame, time = torch.zeros(1, 3, height, width), torch.zeros(1)
        graphs = FORMS[form](build(config).eval(), frame, frame, time)
    return {graph.name: {name: tuple(x.shape) for name, x in graph.inputs.items()} for graph in graphs}
