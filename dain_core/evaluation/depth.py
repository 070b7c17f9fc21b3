"""Evaluates the depth that a model estimates against measured or drawn depth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dain_core.evaluation.pictures import PICTURES, EvaluationError, pictures_of, read_gray16, read_picture
from dain_core.network.networks import build
from dain_core.weights.files import WeightsError, config_for, load_weights

#: The number of pairs of pixels that are compared in a picture.
PAIRS = 20_000

#: Two depths count as equal if their ratio differs from 1 by less than this.
EQUAL = 0.1


@dataclass(frozen=True)
class DepthPicture:
    """A picture and its true depth.

    Attributes:
        clip, name: the names of the clip and of the picture.
        image: (1, 3, H, W), uint8 RGB.
        depth: (H, W), float32, in any unit; larger is further away, 0 is unknown.
    """

    clip: str
    name: str
    image: Tensor
    depth: Tensor


def find_depth(path: Path) -> list[tuple[Path, Path]]:
    """Return the pictures in `path`/rgb and their depth maps in `path`/depth, which have the same names.

    The result is empty if `path` lacks one of the two folders.

    Raises:
        EvaluationError: a picture has no depth map, or there is no picture.
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
    """Read a depth map: (H, W), float32; larger is further away, 0 is unknown.

    Args:
        path: a .npy file with depth in any unit, or a picture whose 16-bit or 8-bit levels are the depth.

    Raises:
        EvaluationError: the file cannot be read as a depth map.
    """
    try:
        values = np.load(path) if path.suffix == ".npy" else read_gray16(path)
    except (ValueError, OSError) as error:
        raise EvaluationError(f"{path}: cannot be read ({error}). Save it with numpy.save.") from error
    depth = torch.from_numpy(values.astype(np.float32))
    if depth.dim() != 2:
        raise EvaluationError(
            f"{path}: a depth map is (height, width), but this one is {tuple(depth.shape)}. Save one map in a file."
        )
    return torch.where(depth.isfinite() & (depth > 0), depth, 0)


def read_pictures(folder: Path) -> Iterator[DepthPicture]:
    """Read the pictures and depth maps that `find_depth` finds in `folder`.

    Raises:
        EvaluationError: a file cannot be read, or a depth map does not fit its picture.
    """
    for path, depth_map in find_depth(folder):
        image, depth = read_picture(path), read_depth(depth_map)
        if image.shape[-2:] != depth.shape:
            sizes = (f"{x.shape[-1]}x{x.shape[-2]}" for x in (depth, image))
            raise EvaluationError(
                f"{depth_map}: is {' and its picture '.join(sizes)}: scale one of them to the size of the other."
            )
        if not (depth > 0).any():
            raise EvaluationError(
                f"{depth_map}: knows no depth (all values are 0 or NaN): remove it and its picture."
            )
        yield DepthPicture(folder.name, path.stem, image, depth)


class DepthModel:
    """The depth network of one of our models, in float32.

    Args:
        spec: NAME or NAME=FILE of weights.
        device: the device, such as "cuda:0".

    Attributes:
        name: the name that tables show.

    Raises:
        EvaluationError: there is no such model, or its weights cannot be used.
    """

    def __init__(self, spec: str, device: str) -> None:
        self.name, _, weights = spec.partition("=")
        self._device = device
        try:
            config = config_for(weights or self.name, self.name)
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
        """Return the depth of a picture, (1, 3, H, W), uint8: (H, W), float32, without a unit."""
        return self._model.log_depth(picture.to(self._device).float() / 255).exp()[0, 0]


def depth_scores(depth: Tensor, truth: Tensor) -> dict[str, float]:
    """Return the scores "sdr" and "si" of METRICS; see `ordinal_disagreement` and `scale_invariant_error`."""
    return {"sdr": ordinal_disagreement(depth, truth), "si": scale_invariant_error(depth, truth)}


def ordinal_disagreement(depth: Tensor, truth: Tensor) -> float:
    """Return the share of pairs of pixels with the wrong order of depth: SDR (Li and Snavely, CVPR 2018), 0 to 1.

    The first pixel of a pair is nearer than the second, further, or equally far (see `EQUAL`). The pairs are random,
    but always the same.

    Args:
        depth, truth: (H, W), each in any unit; 0 in `truth` is unknown.
    """
    known = truth.flatten() > 0
    made, true = depth.flatten()[known], truth.flatten()[known]
    pairs = torch.randint(len(true), (2, PAIRS), generator=torch.Generator().manual_seed(0))
    return float((_order(made[pairs]) != _order(true[pairs])).double().mean())


def scale_invariant_error(depth: Tensor, truth: Tensor) -> float:
    """Return the standard deviation of the error of log depth: si-RMSE (Eigen et al., NeurIPS 2014, with lambda = 1).

    Args:
        depth, truth: (H, W), each in any unit; 0 in `truth` is unknown.
    """
    known = truth > 0
    error = depth[known].double().log() - truth[known].double().log()
    return math.sqrt(float(error.var(correction=0)))


def _order(pairs: Tensor) -> Tensor:
    """Return -1, 0 or 1 for each pair of depths, (2, N): the first is nearer, equal or further."""
    ratio = pairs[0] / pairs[1]
    return (ratio > 1 + EQUAL).int() - (ratio < 1 - EQUAL).int()
