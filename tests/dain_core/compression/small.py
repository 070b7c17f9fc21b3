"""Small networks of both kinds."""

from __future__ import annotations

import torch

from dain_core.network.model import ModelConfig
from dain_core.network.networks import Config, Network, build
from dain_core.network.refined import RefinedConfig

SMALL = ModelConfig(
    flow_pyramid=(32,) * 6,
    flow_dense=(32,) * 5,
    flow_dense_fine=(32,) * 5,
    flow_refine=(32,) * 6,
    depth_stem=32,
    depth_widths=(32, 32, 32),
    depth_narrow=32,
    depth_wide=32,
    depth_scale=4,
    context_width=32,
    kernel_widths=(32,) * 6,
    rectify_kernel=3,
    rectify_width=32,
    rectify_blocks=2,
)
SMALL_REFINED = RefinedConfig(
    base=SMALL, context=(32,) * 5, refine=(32,) * 5, residuals=(1,) * 5, rectify=(32,) * 4
)
CONFIGS = {"dain": SMALL, "dain-refined": SMALL_REFINED}


def random_network(config: Config) -> Network:
    """A network none of whose layers is silent, as the last ones of an untrained `dain-refined` are."""
    torch.manual_seed(0)
    network = build(config).eval().requires_grad_(False)
    for name, weight in network.named_parameters():
        weight.normal_(0, 0.5 / max(weight[0].numel(), 1) ** 0.5)
        if name.endswith("bias"):
            weight.normal_(0, 0.02)
    for name, statistic in network.named_buffers():
        if name.endswith("running_mean"):
            statistic.normal_(0, 0.1)
    return network
