"""Mixing sources, telling what a folder is, and changing triplets without making them untrue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.training.augment import augment
from dain_core.training.batch import Batch
from dain_core.training.data import Mix, Scenes, TrainingDataError, Triplets, open_source
from dain_core.training.degrade import compress, degrade, soften
from dain_core.training.pictures import read_picture


class Constant:
    """A source of grey frames."""

    def __init__(self, value: float) -> None:
        self.value, self.given = value, 0

    def sample(self, n: int) -> Batch:
        self.given += n
        return Batch.of_frames(torch.full((n, 3, 3, 4, 4), self.value), torch.full((n,), 0.5))

    def state_dict(self) -> dict[str, Any]:
        return {"given": self.given}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.given = state["given"]


def save(path: Path, colour: Tensor) -> None:
    """(3 or 4, H, W) uint8 as a PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.ascontiguousarray(colour.permute(1, 2, 0).numpy())
    frame = av.VideoFrame.from_ndarray(array, format="rgba" if len(colour) == 4 else "rgb24")
    with av.open(str(path), "w", format="image2") as file:
        stream = file.add_stream("png", rate=1)
        stream.pix_fmt, stream.width, stream.height = frame.format.name, frame.width, frame.height
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


def picture(height: int = 40, width: int = 72, channels: int = 3, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def moving(n: int, size: tuple[int, int]) -> Batch:
    """A smooth picture that moves by (3, -2) from first to last."""
    height, width = size
    x, y = torch.arange(width).float(), torch.arange(height).float()[:, None]
    flow = torch.tensor([3.0, -2.0])

    def at(time: float) -> Tensor:
        u, v = x - flow[0] * time, y - flow[1] * time
        return torch.stack([0.5 + 0.4 * torch.sin(u / 5 + c) * torch.cos(v / 7 - c) for c in range(3)])

    flows = torch.cat([flow, -flow]).view(1, 4, 1, 1).expand(n, 4, *size).clone()
    first, middle, last = (at(time).expand(n, 3, *size).clone() for time in (0, 0.25, 1))
    depth = torch.stack([1 + 0.01 * x + 0 * y, 3 + 0.01 * x + 0 * y]).expand(n, 2, *size).clone()
    known = torch.ones(n, dtype=torch.bool)
    return Batch(first, middle, last, torch.full((n,), 0.25), flows, depth, known)


def test_a_mix_keeps_shares_and_goes_on_where_it_was() -> None:
    def mix() -> Mix:
        return Mix([(Constant(0.0), 1), (Constant(1.0), 3)])

    source = mix()
    counts = [float(source.sample(3).first.mean(dim=(1, 2, 3)).sum()) for _ in range(8)]
    assert sum(counts) == 18 and all(2 <= count <= 3 for count in counts)

    state = source.state_dict()
    resumed = mix()
    resumed.load_state_dict(state)
    for _ in range(4):
        assert torch.equal(source.sample(5).first, resumed.sample(5).first)
    with pytest.raises(TrainingDataError, match="2 sources"):
        Mix([(Constant(0.0), 1)]).load_state_dict(state)


def test_a_mix_needs_weights() -> None:
    with pytest.raises(ValueError, match="weights"):
        Mix([(Constant(0.0), 0)])


@pytest.mark.parametrize("size", [(32, 48), (32, 32)])
def test_what_is_true_stays_true(size: tuple[int, int]) -> None:
    batch = augment(moving(64, size), np.random.default_rng(1))
    height, width = size
    for here, there, flow in (
        (batch.first, batch.last, batch.flows[:, :2]),
        (batch.last, batch.first, batch.flows[:, 2:]),
        (batch.first, batch.middle, batch.flows[:, :2] * batch.time.view(-1, 1, 1, 1)),
    ):
        x = torch.arange(width) + flow[:, 0] + 0.5
        y = torch.arange(height)[:, None] + flow[:, 1] + 0.5
        found = F.grid_sample(
            there, torch.stack([2 * x / width - 1, 2 * y / height - 1], -1), align_corners=False
        )
        assert (found - here)[..., 4:-4, 4:-4].abs().max() < 0.02
    reversed_ = batch.time == 0.75
    assert 0 < reversed_.sum() < 64
    nearer = batch.depth[:, 0].mean((1, 2)) < batch.depth[:, 1].mean((1, 2))
    assert torch.equal(nearer, ~reversed_)
    directions = {tuple(flow) for flow in batch.flows[:, :2, 0, 0].tolist()}
    assert len(directions) == (8 if height == width else 4)


def test_degrading_spares_the_middle_frame_noise() -> None:
    frames = torch.full((16, 3, 3, 32, 32), 0.5)
    times = np.tile([0.0, 1.0, 0.5], (16, 1))
    generator = torch.Generator().manual_seed(0)
    seen = degrade(frames, times, np.ones(16, bool), np.random.default_rng(2), generator)
    deviation = seen.std(dim=(3, 4)).amax(1)
    assert deviation[:, 2].max() < 1e-3
    assert (deviation[:, :2].amin(1) > 2e-3).float().mean() > 0.5
    assert not torch.equal(seen[:, :, 0], seen[:, :, 1])


def test_softening_and_compressing_can_be_nothing() -> None:
    x = torch.arange(32) / 31
    frames = torch.stack([x.expand(32, 32), x[:, None].expand(32, 32), 0.5 + 0 * x.expand(32, 32)])
    frames = frames[None, :, None].expand(1, 3, 2, 32, 32).contiguous()
    assert torch.equal(soften(frames, torch.zeros(1)), frames)
    assert (soften(frames, torch.ones(1)) - frames).abs().max() > 1e-3
    # Colour loses half of its resolution whatever the step.
    torch.testing.assert_close(compress(frames, torch.tensor([1e-5])), frames, atol=0.03, rtol=0)
    assert (compress(frames, torch.tensor([0.1])) - frames).abs().mean() > 0.005


def test_pictures_are_read_as_they_are(tmp_path: Path) -> None:
    opaque, cutout = picture(), picture(channels=4)
    save(tmp_path / "opaque.png", opaque)
    save(tmp_path / "cutout.png", cutout)
    save(tmp_path / "solid.png", torch.cat([opaque, torch.full_like(opaque[:1], 255)]))
    assert torch.equal(read_picture(tmp_path / "opaque.png"), opaque)
    assert torch.equal(read_picture(tmp_path / "cutout.png"), cutout)
    assert torch.equal(read_picture(tmp_path / "solid.png"), opaque)
    assert read_picture(tmp_path / "opaque.png", most=36).shape == (3, 20, 36)


def test_a_folder_of_pictures_makes_scenes(tmp_path: Path) -> None:
    save(tmp_path / "photographs" / "one.png", picture(200, 300))
    save(tmp_path / "cutouts" / "two.png", picture(channels=4))
    source = open_source([str(tmp_path)], (32, 48))
    assert isinstance(source, Scenes)
    assert source.sample(2).first.shape == (2, 3, 32, 48)


def triplets(folder: Path, listed: str, lines: list[str], frames: int, height: int = 40) -> None:
    folder.mkdir(exist_ok=True)
    (folder / listed).write_text("\n".join(lines) + "\n\n")
    for number, line in enumerate(lines):
        for frame in range(1, frames + 1):
            # Frame k is grey of value 10k: triplets tell what they were made of.
            colour = torch.full((3, height, 72), 10 * frame + number, dtype=torch.uint8)
            save(folder / "sequences" / line / f"im{frame}.png", colour)


def test_triplets_come_as_listed(tmp_path: Path) -> None:
    triplets(tmp_path, "tri_trainlist.txt", ["0/1", "0/2", "1/1"], 3)
    source = open_source([str(tmp_path)], (32, 64), seed=3)
    assert isinstance(source, Triplets)
    source.sample(2)
    state = source.state_dict()
    batch = source.sample(7)
    assert batch.first.shape == (7, 3, 32, 64)
    assert (batch.time == 0.5).all() and not batch.supervised.any()

    again = Triplets(tmp_path, (32, 64), seed=8)
    again.load_state_dict(state)
    assert torch.equal(batch.middle, again.sample(7).middle)


def test_septuplets_give_any_time_between(tmp_path: Path) -> None:
    triplets(tmp_path, "sep_trainlist.txt", ["0/1"], 7)
    batch = open_source([str(tmp_path)], (32, 64)).sample(40)
    values = torch.stack([frame.mean((1, 2, 3)) for frame in (batch.first, batch.middle, batch.last)], 1)
    # Contrast and brightness change, but keep what is even between two values.
    even = (values[:, 1] - values[:, 0]) / (values[:, 2] - values[:, 0])
    torch.testing.assert_close(even, batch.time, atol=0.02, rtol=0)
    assert len(batch.time.unique()) > 5


def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="is no folder"):
        open_source([str(tmp_path / "nothing")], (32, 32))
    with pytest.raises(TrainingDataError, match="no videos, no pictures"):
        open_source([str(tmp_path)], (32, 32))
    with pytest.raises(TrainingDataError, match="there should be a share"):
        open_source(["scenes=much"], (32, 32))
    with pytest.raises(TrainingDataError, match="more than 0"):
        open_source(["scenes=0"], (32, 32))
    with pytest.raises(TrainingDataError, match="nothing to train on"):
        open_source([], (32, 32))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(TrainingDataError, match=r"broken\.png"):
        open_source([str(tmp_path)], (32, 32))
    (tmp_path / "film.mp4").touch()
    with pytest.raises(TrainingDataError, match="both videos"):
        open_source([str(tmp_path)], (32, 32))


def test_what_is_wrong_with_triplets_is_said(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="tri_trainlist"):
        Triplets(tmp_path, (32, 32))
    (tmp_path / "tri_trainlist.txt").write_text("\n")
    with pytest.raises(TrainingDataError, match="empty"):
        Triplets(tmp_path, (32, 32))
    triplets(tmp_path, "tri_trainlist.txt", ["0/1"], 3)
    with pytest.raises(TrainingDataError, match="40x72, smaller than the crop"):
        Triplets(tmp_path, (64, 64)).sample(1)
    save(tmp_path / "sequences/0/1/im2.png", picture(48, 72))
    with pytest.raises(TrainingDataError, match="not of one size"):
        Triplets(tmp_path, (32, 32)).sample(1)
    (tmp_path / "sequences/0/1/im2.png").unlink()
    with pytest.raises(TrainingDataError, match=r"im2\.png"):
        Triplets(tmp_path, (32, 32)).sample(1)
