"""Maps the names of our parameters and buffers to those of the official checkpoint."""

from __future__ import annotations

import re
from collections.abc import Iterator


def _prefixes() -> Iterator[tuple[str, str]]:
    """Give pairs of our prefix and the official prefix. The first pair that fits a name counts."""
    for level in range(1, 7):
        order = ("a", "aa", "b") if level < 6 else ("aa", "a", "b")
        for index, suffix in enumerate(order):
            yield f"flow.pyramid.{level - 1}.{index}.", f"flownets.conv{level}{suffix}."
    for index, level in enumerate((6, 5, 4, 3, 2)):
        for layer in range(5):
            yield f"flow.decoders.{index}.dense.{layer}.", f"flownets.conv{level}_{layer}."
        yield f"flow.decoders.{index}.predict.", f"flownets.predict_flow{level}."
        yield f"flow.up_flow.{index}.", f"flownets.deconv{level}."
        yield f"flow.up_features.{index}.", f"flownets.upfeat{level}."
    for index in range(7):
        yield f"flow.refine.{index}.", f"flownets.dc_conv{index + 1}."
    yield "depth.", "depthNet."
    yield "context.stem.", "ctxNet.block1.0."
    for index in range(2):
        yield f"context.blocks.{index}.", f"ctxNet.block{index + 2}."
    for index, layer in enumerate((0, 2, 5, 8, 11, 14, 17)):
        yield f"kernels.down.{index}.", f"initScaleNets_filter.{layer}."
    for index, layer in enumerate((20, 23, 26, 29, 32)):
        yield f"kernels.up.{index}.", f"initScaleNets_filter.{layer}."
    for index in range(2):
        yield f"kernels.heads.{index}.", f"initScaleNets_filter{index + 1}."
    yield "rectify.stem.", "rectifyNet.block1.0."
    for index in range(3):
        yield f"rectify.blocks.{index}.", f"rectifyNet.block{index + 2}."
    yield "rectify.head.", "rectifyNet.block5.0."


_OFFICIAL = dict(_prefixes())
_OURS = re.compile("|".join(re.escape(prefix) for prefix in _OFFICIAL))


def official_key(key: str) -> str:
    """Return the official name of `key`, such as ``ctxNet.block1.0.weight`` for ``context.stem.weight``."""
    renamed = _OURS.sub(lambda match: _OFFICIAL[match.group()], key, count=1)
    return renamed.replace(".paths.", ".0.")  # `Both` in the depth network has paths
