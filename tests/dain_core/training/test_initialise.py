"""Parts that start from nothing: alive, and doing nothing yet."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dain_core.network.model import DAIN
from dain_core.training.batch import Batch
from dain_core.training.config import PARTS
from dain_core.training.initialise import initialise
from tests.tiny_training import TINY, Slides


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Slides((64, 64), torch.device("cpu"), 0).sample(8)


@pytest.fixture(scope="module")
def made(batch: Batch) -> DAIN:
    torch.manual_seed(0)
    model = DAIN(TINY)
    initialise(model, PARTS, batch)
    return model.eval()


@torch.inference_mode()
def test_a_new_network_blends_the_frames_where_they_are(made: DAIN, batch: Batch) -> None:
    one, two = made.features(torch.cat((batch.first, batch.last))).halves()
    motion = made.motion(one, two)
    still = [torch.zeros_like(flow) for flow in motion.flows]
    motion = type(motion)((still[0], still[1]), motion.kernels)
    result = made.synthesise(one, two, motion, 0.5)
    average = (batch.first + batch.last) / 2
    torch.testing.assert_close(result.blend, average, atol=0.1, rtol=0)
    torch.testing.assert_close(result.output, result.blend, atol=1e-3, rtol=0)


def test_what_flows_through_has_unit_size(made: DAIN, batch: Batch) -> None:
    deviations: dict[str, Tensor] = {}

    def note(name: str) -> object:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            deviations[name] = output.std((0, 2, 3))

        return hook

    names = ["flow.pyramid.0.0.0", "flow.pyramid.5.2.0", "flow.decoders.4.dense.4.0", "rectify.stem"]
    hooks = [made.get_submodule(name).register_forward_hook(note(name)) for name in names]  # type: ignore[arg-type]
    with torch.inference_mode():
        made(batch.first, batch.last)
    for hook in hooks:
        hook.remove()
    for name, deviation in deviations.items():
        assert 0.7 < float(deviation.mean()) < 1.4, name


def test_every_channel_of_the_rectification_is_alive(made: DAIN, batch: Batch) -> None:
    seen: list[Tensor] = []
    hook = made.rectify.blocks.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.inference_mode():
        made(batch.first, batch.last)
    hook.remove()
    assert (seen[0].amax((0, 2, 3)) > 0).all()


def test_only_the_parts_named_are_made_anew(made: DAIN, batch: Batch) -> None:
    model = DAIN(TINY)
    model.load_state_dict(made.state_dict())
    initialise(model, ("rectify", "context"), batch)
    changed = {
        name.partition(".")[0]
        for (name, ours), theirs in zip(model.named_parameters(), made.parameters(), strict=True)
        if not torch.equal(ours, theirs)
    }
    assert changed == {"context", "rectify"}
