"""Made scenes: what is said of every pixel must be what the frames show."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dain_core.training.batch import Batch
from dain_core.training.scenes.motion import JOINTS, LIMB, PARENTS, Layout, draw_layout
from dain_core.training.scenes.render import SceneBatch
from dain_core.training.scenes.surfaces import Surfaces
from dain_core.training.scenes.synthetic import MadeScenes

SIZE = (64, 96)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def surfaces() -> Surfaces:
    return Surfaces([], 96, 12, torch.Generator().manual_seed(1), CPU)


@pytest.fixture(scope="module")
def scenes() -> MadeScenes:
    return MadeScenes([], SIZE, seed=5)


def make(layout: Layout, surfaces: Surfaces) -> SceneBatch:
    return SceneBatch(np.random.default_rng(3), layout, surfaces, SIZE, CPU)


def drawn(n: int) -> Layout:
    layout = draw_layout(np.random.default_rng(11), n, *SIZE)
    return layout.take(np.argsort(-layout.present.sum(1), kind="stable"))


def at_rest(n: int = 2) -> Layout:
    """Scenes without objects, of which nothing moves."""
    layout = drawn(n)
    for motion in (layout.pan, layout.roll, layout.zoom, layout.ripple, layout.slope):
        motion[:] = 0
    layout.present[:, 1:] = False
    return layout


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """What lies where the flow leads: (N, C, H, W), (N, 2, H, W) pixels."""
    height, width = image.shape[2:]
    x = torch.arange(width) + flow[:, 0] + 0.5
    y = torch.arange(height)[:, None] + flow[:, 1] + 0.5
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)
    return F.grid_sample(image, grid, align_corners=False)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Batch))


def test_a_batch_is_as_promised(scenes: MadeScenes) -> None:
    batch = scenes.sample(5)
    for frame in (batch.first, batch.middle, batch.last):
        assert frame.shape == (5, 3, *SIZE) and frame.dtype == torch.float32
        assert frame.min() >= 0 and frame.max() <= 1 and frame.std() > 0.02
    assert batch.flows.shape == (5, 4, *SIZE) and batch.flows.isfinite().all()
    assert batch.depth.shape == (5, 2, *SIZE) and (batch.depth > 0).all()
    assert ((batch.time > 0) & (batch.time < 1)).all()
    assert batch.supervised.all()


def test_the_same_state_gives_the_same_batches(scenes: MadeScenes) -> None:
    scenes.sample(2)
    state = scenes.state_dict()
    batches = [scenes.sample(3), scenes.sample(2)]
    assert not torch.equal(batches[0].first[:2], batches[1].first)

    again = MadeScenes([], SIZE, seed=99)
    again.load_state_dict(state)
    assert same(batches[0], again.sample(3)) and same(batches[1], again.sample(2))


def test_flow_leads_to_the_same_surface(surfaces: Surfaces) -> None:
    n = 12
    scene = make(drawn(n), surfaces)
    frames, top = scene.render(np.arange(n), np.tile([0.0, 1.0], (n, 1)))
    first, last = frames.unbind(2)
    flows, _ = scene.truth(top)
    for here, there, flow, back in (
        (first, last, flows[:, :2], flows[:, 2:]),
        (last, first, flows[:, 2:], flows[:, :2]),
    ):
        returns = (flow + warp(back, flow)).norm(dim=1) < 0.3
        within = warp(torch.ones(n, 1, *SIZE), flow)[:, 0] > 0.999
        seen = returns & within
        error = (warp(there, flow) - here).abs().mean(1)
        assert seen.float().mean() > 0.7
        assert error[seen].mean() < 0.01
        assert error[seen].mean() < (here - there).abs().mean(1)[seen].mean() / 5


def test_a_ripple_is_undone_exactly(surfaces: Surfaces) -> None:
    layout = at_rest(2)
    layout.ripple[:, 0] = [[0.02, 6, 2, 1], [0.02, -3, 5, 2]]
    scene = make(layout, surfaces)
    flows, _ = scene.truth(torch.zeros(2, 2, *SIZE, dtype=torch.int64))
    forth, back = flows[:, :2], flows[:, 2:]
    assert forth.abs().max() > 0.5
    # The flow back is known at pixels only; between them it is as smooth as the ripple.
    inside = (slice(None), slice(None), slice(4, -4), slice(4, -4))
    assert (forth + warp(back, forth))[inside].abs().max() < 0.03


def test_a_pan_moves_near_things_more(surfaces: Surfaces) -> None:
    layout = at_rest()
    layout.pan[:] = 4, -2
    layout.present[:, 1] = True
    layout.velocity[:, 1] = layout.spin[:, 1] = layout.growth[:, 1] = 0
    layout.tilt[:, 1] = layout.place[:, 1] = 0
    layout.size[:, 1] = 30
    layout.disparity[:, 0], layout.disparity[:, 1] = 0.5, 1.0
    scene = make(layout, surfaces)
    _, top = scene.render(np.arange(2), np.tile([0.0, 1.0], (2, 1)))
    flows, depth = scene.truth(top)
    near = (top == 1)[:, :1]
    assert 0 < near.float().mean() < 1
    expected = torch.where(
        near, torch.tensor([8.0, -4.0]).view(1, 2, 1, 1), torch.tensor([4.0, -2.0]).view(1, 2, 1, 1)
    )
    torch.testing.assert_close(flows[:, :2], expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(depth, torch.where(top == 1, 1.0, 2.0))


def test_frames_are_rendered_at_their_times(surfaces: Surfaces) -> None:
    layout = at_rest(1)
    layout.pan[:] = 8, 0
    frames, _ = make(layout, surfaces).render(np.arange(1), np.array([[0.0, 1.0, 0.25]]))
    first, last, quarter = frames.unbind(2)
    torch.testing.assert_close(quarter[..., 2:], first[..., :-2], atol=2e-3, rtol=0)
    torch.testing.assert_close(last[..., 8:], first[..., :-8], atol=2e-3, rtol=0)


def test_what_rests_stays(surfaces: Surfaces) -> None:
    scene = make(at_rest(), surfaces)
    frames, top = scene.render(np.arange(2), np.tile([0.0, 1.0, 0.3], (2, 1)))
    flows, _ = scene.truth(top)
    assert torch.equal(frames[:, :, 0], frames[:, :, 1]) and torch.equal(frames[:, :, 0], frames[:, :, 2])
    assert flows.abs().max() < 1e-3


def test_part_of_the_scenes_look_as_they_do_among_all(surfaces: Surfaces) -> None:
    scene = make(drawn(6), surfaces)
    times = np.tile([0.0, 1.0], (6, 1))
    every, top = scene.render(np.arange(6), times)
    part, top_of_part = scene.render(np.array([1, 4]), times[:2])
    assert torch.equal(every[[1, 4]], part) and torch.equal(top[[1, 4]], top_of_part)


def test_limbs_stay_in_their_joints() -> None:
    layout = draw_layout(np.random.default_rng(2), 40, *SIZE)
    layout = layout.take(np.flatnonzero(layout.figure))
    assert len(layout.figure) > 2
    poses = layout.poses(np.tile([-0.5, 0.1, 0.5], (len(layout.figure), 1)))
    for piece, parent in enumerate(PARENTS):
        if parent < 0:
            continue
        size = layout.size[:, [1 + piece, 1 + parent], 0]
        body = layout.size[:, 1, 0] * 2 * LIMB
        along = JOINTS[piece] * body / size[:, 1] - LIMB  # the joint on the parent's canvas
        start = poses[:, 1 + piece] @ np.array([-LIMB, 0, 1])
        joint = (poses[:, 1 + parent] @ np.stack([along, 0 * along, 1 + 0 * along], -1)[:, None, :, None])[
            ..., 0
        ]
        # The camera sees a limb a hair nearer than the body.
        np.testing.assert_allclose(start[..., :2] / start[..., 2:], joint[..., :2] / joint[..., 2:], atol=0.2)


def test_speeds_have_a_long_tail() -> None:
    layout = draw_layout(np.random.default_rng(4), 2000, 512, 512)
    speed = np.linalg.norm(layout.velocity[:, 1:], axis=-1)[~layout.calm]
    assert 0.3 < layout.calm.mean() < 0.4
    assert np.linalg.norm(layout.velocity[layout.calm], axis=-1).max() < 45
    moving = speed[speed > 0]
    assert 3 < np.median(moving) < 20
    assert 60 < np.quantile(moving, 0.99) < 260


def test_something_reaches_into_a_part_of_the_scenes() -> None:
    height, width = 256, 384
    layout = draw_layout(np.random.default_rng(4), 500, height, width)
    nearest = np.where(layout.present, layout.disparity, 0).argmax(1)
    rows = np.arange(500)
    reach = np.abs(layout.place[rows, nearest]) + np.abs(layout.size[rows, nearest])
    large = np.abs(layout.size[rows, nearest]).min(1) > 60
    close = (nearest == 1) & large & (reach > np.array([width, height]) / 2).any(1) & ~layout.figure
    assert 0.15 < close.mean() < 0.35
    assert np.linalg.norm(layout.velocity[close & ~layout.calm, 1], axis=1).max() > 60


def test_easy_scenes_have_few_objects() -> None:
    layout = draw_layout(np.random.default_rng(4), 100, *SIZE, easy=1.0)
    assert not layout.figure.any() and layout.present.sum(1).max() == 3


def test_a_cutout_keeps_its_outline() -> None:
    disc = torch.hypot(*torch.meshgrid(torch.arange(40) - 19.5, torch.arange(40) - 19.5, indexing="ij")) < 18
    cutout = torch.cat([torch.full((3, 40, 40), 200), 255 * disc[None]]).byte()
    surfaces = Surfaces([cutout], 96, 12, torch.Generator().manual_seed(1), CPU)
    layout = drawn(8)
    layout.present[:, 1] = True
    layout.figure[:] = False
    canvases = surfaces.objects(np.random.default_rng(0), layout, np.arange(8), np.ones(8, dtype=np.int64))
    coverage = canvases[:, 3]
    assert ((coverage[:, 48, 48] > 0.5) & (coverage[:, 10, 10] == 0)).any()


def test_a_size_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        MadeScenes([], (60, 64))
