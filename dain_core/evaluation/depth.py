"""How good the depth is that a model sees, against depth that was measured or drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dain_core.evaluation.pictures import PICTURES, EvaluationError, pictures_of, read_gray16, read_picture
from dain_core.network.networks import build, config_named
from dain_core.weights.files import WeightsError, load_weights

#: How many pairs of pixels are compared in a picture.
PAIRS = 20_000

#: Depths that differ by less than this share count as equal.
EQUAL = 0.1


@dataclass(frozen=True)
class DepthPicture:
    """A picture (1, 3, H, W), uint8 RGB, and its depth (H, W): larger is further away, 0 is not known."""

    clip: str
    name: str
    image: Tensor
    depth: Tensor


def find_depth(path: Path) -> list[tuple[Path, Path]]:
    """Pictures and their depth maps, if `path` holds folders rgb and depth with files of the same names; else none.

    Raises:
        EvaluationError: a picture without a depth map.
    """
    pictures, maps = path / "rgb", path / "depth"
    if not (pictures.is_dir() and maps.is_dir()):
        return []
    depths = {file.stem: file for file in maps.iterdir() if file.suffix.lower() in {".npy", *PICTURES}}
    found = pictures_of(pictures)
    for picture in found:
        if picture.stem not in depths:
            raise EvaluationError(
                f"{picture}: has no {maps / picture.stem}.png or .npy: add it or remove the picture."
            )
    if not found:
        raise EvaluationError(
            f"{pictures}: holds no picture. Put the pictures there, and their depth into {maps}."
        )
    return [(picture, depths[picture.stem]) for picture in found]


def read_depth(path: Path) -> Tensor:
    """Depth (H, W), float32, larger is further away; 0 where it is not known.

    A .npy file holds it in any unit, a picture in 16-bit (or 8-bit) levels.
    """
    try:
        values = np.load(path) if path.suffix == ".npy" else read_gray16(path)
    except (ValueError, OSError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}). Save it with numpy.save.") from error
    depth = torch.from_numpy(values.astype(np.float32))
    if depth.dim() != 2:
        raise EvaluationError(f"{path}: a depth map is (height, width), this is {tuple(depth.shape)}.")
    return torch.where(depth.isfinite() & (depth > 0), depth, 0)


def read_pictures(folder: Path) -> Iterator[DepthPicture]:
    """What `find_depth` has found in a folder.

    Raises:
        EvaluationError: a file that cannot be read, or maps that do not fit their pictures.
    """
    for path, depth_map in find_depth(folder):
        image, depth = read_picture(path), read_depth(depth_map)
        if image.shape[-2:] != depth.shape:
            sizes = (f"{x.shape[-1]}x{x.shape[-2]}" for x in (depth, image))
            raise EvaluationError(
                f"{depth_map}: is {' and its picture '.join(sizes)}: scale one to the other."
            )
        if not (depth > 0).any():
            raise EvaluationError(
                f"{depth_map}: knows no depth (all is 0 or NaN): remove it and its picture."
            )
        yield DepthPicture(folder.name, path.stem, image, depth)


class DepthModel:
    """The depth network of one of our models, in float32."""

    def __init__(self, spec: str, device: str) -> None:
        self.name, _, weights = spec.partition("=")
        self._device = device
        try:
            config = config_named(self.name)
            with torch.device("meta"):
                self._model = build(config)
            self._model.load_state_dict(load_weights(weights or self.name, config), assign=True)
        except (ValueError, WeightsError) as error:
            raise EvaluationError(f"--model {spec}: {error}") from error
        self._model.prepare(torch.float32).to(device)
        if weights:
            self.name += f" {Path(weights).stem}"

    @torch.inference_mode()
    def __call__(self, picture: Tensor) -> Tensor:
        """The depth (H, W) of a picture (1, 3, H, W), uint8; in no unit."""
        return self._model.log_depth(picture.to(self._device).float() / 255).exp()[0, 0]


def depth_scores(depth: Tensor, truth: Tensor) -> dict[str, float]:
    """Both scores by the keys of METRICS: see `ordinal_disagreement`."""
    return {"sdr": ordinal_disagreement(depth, truth), "si": scale_invariant_error(depth, truth)}


def ordinal_disagreement(depth: Tensor, truth: Tensor) -> float:
    """In how many pairs of pixels it is wrong which is nearer: SDR (Li and Snavely, CVPR 2018), from 0 to 1.

    A pair is nearer, further or, with depths within `EQUAL` of each other, equal. Random pairs, always the same.

    Args:
        depth, truth: (H, W), of any unit each; where `truth` is 0 it is not known.
    """
    known = truth.flatten() > 0
    made, true = depth.flatten()[known], truth.flatten()[known]
    pairs = torch.randint(len(true), (2, PAIRS), generator=torch.Generator().manual_seed(0))
    return float((_order(made[pairs]) != _order(true[pairs])).double().mean())


def scale_invariant_error(depth: Tensor, truth: Tensor) -> float:
    """The standard deviation of log depth's error: si-RMSE (Eigen et al., NeurIPS 2014, with its lambda 1, rooted)."""
    known = truth > 0
    error = depth[known].double().log() - truth[known].double().log()
    return math.sqrt(float(error.var(correction=0)))


def _order(pairs: Tensor) -> Tensor:
    """-1, 0 or 1 for depths (2, N)."""
    ratio = pairs[0] / pairs[1]
    return (ratio > 1 + EQUAL).int() - (ratio < 1 - EQUAL).int()
