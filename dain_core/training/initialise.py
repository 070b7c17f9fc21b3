"""Initial weights of parts that start without any: random weights, scaled by the activations of a batch.

With the usual initialisation the flow network never leaves zero flow, and the context outweighs every other input of
the rectification. Therefore every layer is scaled until its output has unit variance, in the order in which a batch
passes through the layers (LSUV; Mishkin and Matas, ICLR 2016). Every part starts neutral. The flow is near zero, and
each level repeats the flow of the coarser level. The kernels sample bilinearly. The rectification adds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN, ModelConfig
from dain_core.network.modules.kernels import CENTRE, TAPS
from dain_core.network.modules.layers import ResidualBlock
from dain_core.training.batch import Batch

#: The root mean square of what a residual block adds to its input.
_RESIDUAL_GAIN = 0.4


@torch.no_grad()
def inherit(network: nn.Module, weights: Mapping[str, Tensor]) -> frozenset[nn.Module]:
    """Copy the weights of all layers of `network` whose shapes are the same in `weights`, a state dict.

    Returns:
        The layers that were copied.
    """
    taken = set()
    for path, layer in network.named_modules():
        own = dict(layer.named_parameters(path, recurse=False))
        if own and all(name in weights and weights[name].shape == own[name].shape for name in own):
            for name, weight in own.items():
                weight.copy_(weights[name])
            taken.add(layer)
    return frozenset(taken)


@torch.no_grad()
def initialise(
    model: DAIN, parts: Iterable[str], batch: Batch, kept: Collection[nn.Module] = frozenset()
) -> None:
    """Give `parts` of `model` new random weights, in place. They depend on PyTorch's random state.

    Args:
        model: the network.
        parts: names from `dain_core.training.config.PARTS`.
        batch: triplets by whose activations the weights are scaled.
        kept: layers that keep their weights.

    Raises:
        ValueError: a name is not that of a part.
    """
    makers: dict[str, Callable[[DAIN, Batch, Collection[nn.Module]], None]] = {
        "depth": _depth,
        "flow": _flow,
        "kernels": _kernels,
        "context": _context,
        "rectify": _rectify,
    }
    was_training = model.training
    model.eval()
    for part in sorted(parts, key=list(makers).index):  # a part sees the outputs of the parts before it
        makers[part](model, batch, kept)
    model.train(was_training)


def _randomise(network: nn.Module, kept: Collection[nn.Module]) -> None:
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer not in kept:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _depth(model: DAIN, batch: Batch, kept: Collection[nn.Module]) -> None:
    _randomise(model.depth, kept)
    for layer in model.depth.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()


def _flow(model: DAIN, batch: Batch, kept: Collection[nn.Module]) -> None:
    network = model.flow
    _randomise(network, kept)
    heads = [*(decoder.get_submodule("predict") for decoder in network.decoders), network.refine[-1]]
    for layer in (*heads, *network.up_features):
        if layer not in kept:
            layer.get_parameter("weight").mul_(0.1 if layer is heads[0] else 0.01)
    side = torch.tensor([0.25, 0.75, 0.75, 0.25])
    for layer in network.up_flow:
        if layer not in kept:
            weight = layer.get_parameter("weight").zero_()
            weight[0, 0] = weight[1, 1] = torch.outer(side, side)
    for head in heads[1:-1]:
        if head not in kept:  # the last four inputs are the coarser level's flow and features
            weight = head.get_parameter("weight")
            weight[0, -4, 1, 1] += 1
            weight[1, -3, 1, 1] += 1
    with ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d) and layer not in heads and layer not in kept:
                stack.callback(layer.register_forward_hook(_centred).remove)
        one, two = model.features(torch.cat((batch.first, batch.last)), with_context=False).halves()
        model.flow_levels(one.pyramid, two.pyramid)


def _kernels(model: DAIN, batch: Batch, kept: Collection[nn.Module]) -> None:
    _randomise(model.kernels, kept)
    for head in model.kernels.heads:
        head.get_parameter("2.weight").mul_(0.01)
        head.get_parameter("2.bias")[list(CENTRE)] = 1.0


def _context(model: DAIN, batch: Batch, kept: Collection[nn.Module]) -> None:
    network = model.context
    _randomise(network, kept)
    # Half of the filters see edges only. The other half sees colours too.
    edges = network.stem.weight[: len(network.stem.weight) // 2]
    edges -= edges.mean((2, 3), keepdim=True)
    with ExitStack() as stack:
        stack.callback(network.stem.register_forward_hook(_scaled(1.0)).remove)
        _scale_blocks(stack, network.blocks)
        network(batch.first)


def _rectify(model: DAIN, batch: Batch, kept: Collection[nn.Module]) -> None:
    network = model.rectify
    _randomise(network, kept)
    nn.init.normal_(network.head.weight, 0, 1e-5)
    with ExitStack() as stack:
        stack.callback(network.stem.register_forward_pre_hook(_balance(model.config)).remove)
        stack.callback(network.stem.register_forward_hook(_centred).remove)
        _scale_blocks(stack, network.blocks)
        one, two = model.features(torch.cat((batch.first, batch.last))).halves()
        model.synthesise(one, two, model.motion(one, two), batch.time.view(-1, 1, 1, 1))


def _balance(config: ModelConfig) -> Callable[[nn.Module, tuple[Tensor]], None]:
    """Make a hook that scales the weights of the rectification's first layer by the kinds of its inputs.

    Pictures get the largest gain, then the flow. Half of the filters see the difference of the two warped pictures,
    because the pictures differ where they are wrong.
    """
    gains = torch.tensor([4.0] * 9 + [1.2] * 4 + [0.4] * 2 * TAPS + [0.7] * 2 * config.context_channels)

    def hook(stem: nn.Module, inputs: tuple[Tensor]) -> None:
        weight, seen = stem.get_parameter("weight"), inputs[0].float()
        deviation = seen.std((0, 2, 3)).clamp(min=0.05)
        weight.mul_((gains.to(deviation) / deviation).view(1, -1, 1, 1))
        contrast = deviation[3:6].mean() / (seen[:, 3:6] - seen[:, 6:9]).std().clamp(min=0.01)
        half = len(weight) // 2
        weight[:half, :3] = 0
        weight[:half, 3:6] *= contrast
        weight[:half, 6:9] = -weight[:half, 3:6]

    return hook


def _scale_blocks(stack: ExitStack, blocks: nn.Module) -> None:
    for block in blocks.children():
        assert isinstance(block, ResidualBlock)
        stack.callback(block.conv1.register_forward_hook(_scaled(1.0)).remove)
        stack.callback(block.conv2.register_forward_hook(_scaled(_RESIDUAL_GAIN)).remove)


def _centred(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """A hook that changes `layer` so that its output has zero mean and unit deviation. It returns the new output."""
    deviation, mean = torch.std_mean(output.float(), (0, 2, 3))
    factor = 1 / deviation.clamp(min=1e-4)
    bias = layer.get_parameter("bias")
    layer.get_parameter("weight").mul_(factor.view(-1, 1, 1, 1))
    bias.copy_((bias - mean) * factor)
    return (output - mean.view(1, -1, 1, 1)) * factor.view(1, -1, 1, 1)


def _scaled(target: float) -> Callable[[nn.Module, object, Tensor], Tensor]:
    """Make a hook for layers without bias. It scales a layer until the root mean square of its output is `target`."""

    def hook(layer: nn.Module, inputs: object, output: Tensor) -> Tensor:
        size = output.float().square().mean((0, 2, 3)).sqrt().clamp(min=1e-4)
        factor = (target / size).view(-1, 1, 1, 1)
        layer.get_parameter("weight").mul_(factor)
        return output * factor.view(1, -1, 1, 1)

    return hook
