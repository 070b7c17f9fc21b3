"""What teachers say of triplets."""

from __future__ import annotations

from dataclasses import replace

import torch

from dain_core.training.lessons import lesson, make
from dain_core.training.resident import Triplets
from tests.dain_core.training.test_refined import shifted, small


def test_of_two_teachers_the_better_one_counts() -> None:
    batch, right = shifted()
    network = small(0).prepare(torch.float32)  # it knows next to nothing
    known = lesson(batch, lambda *_: [right + 30, right], network, rectified=True, guessed=0.0)
    assert known and known.share is not None and known.frame is not None
    assert ((known.flows - right).abs() < 1e-3).float().mean() > 0.8
    assert known.share.shape == (1, 1, 64, 128) and known.frame.shape == (1, 3, 64, 128)
    wrong = lesson(batch, lambda *_: [right + 30], network, rectified=False, guessed=0.0)
    assert wrong and (wrong.flows - right).abs().median() < 6 and wrong.frame is None
    assert lesson(batch, None, None, rectified=True, guessed=0.0) is None


def test_in_some_triplets_the_refinement_begins_with_a_teachers_flow_and_smooth_errors() -> None:
    batch, right = shifted()
    twice = Triplets(
        *(torch.cat((part, part)) for part in (batch.first, batch.middle, batch.last, batch.time))
    )
    known = lesson(twice, lambda *_: [torch.cat((right, right))], None, rectified=False, guessed=1.0)
    assert known and known.guessed.all()
    errors = known.guess - right
    assert 0.01 < errors.std() < 4 and errors.diff(dim=3).abs().mean() < 0.1 * errors.std()
    chosen = replace(known, guessed=torch.tensor([True, False]).view(2, 1, 1, 1))
    with torch.no_grad():
        flows = make(small(0), twice, False, chosen)[0][-1].flows  # untrained blocks change nothing
    assert torch.allclose(flows[0], known.guess[0], atol=1e-4)
    assert not torch.allclose(flows[1], known.guess[1], atol=0.1)
