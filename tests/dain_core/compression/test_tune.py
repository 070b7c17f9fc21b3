"""`dain tune`: the choice of precisions, the profile that it writes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from dain_core.compression import tune as module
from dain_core.compression.errors import CompressionError
from dain_core.compression.tune import Choice, Cost, best, choices, choose, measure, offers
from dain_core.compression.tune_cli import tune
from dain_core.network.networks import NETWORKS
from dain_core.runtime.profile import read_profile
from dain_core.weights.files import save
from dain_core.weights.registry import Entry, registry
from tests.dain_core.compression.small import SMALL, random_network

CPU = torch.device("cpu")
NOTHING = Cost(0.0, 0.0)
COSTS = {
    "flow": {"fp32": NOTHING, "bf16": Cost(-4.0, 0.30)},
    "depth": {"fp32": NOTHING, "bf16": Cost(-3.0, 0.02), "int8": Cost(-5.0, 0.09)},
    "rectify": {"fp32": NOTHING, "bf16": Cost(-2.0, -0.01)},
}
BASE = Cost(20.0, 0.0)


def run(*args: object) -> Result:
    return CliRunner().invoke(tune, [*map(str, args)])


def one(found: tuple[Choice, Cost]) -> tuple[str, float, float]:
    choice, cost = found
    return " ".join(choice.values()), pytest.approx(cost.milliseconds), pytest.approx(cost.loss)  # type: ignore[return-value]


def test_the_fastest_choice_within_a_loss_is_first() -> None:
    assert one(choose(COSTS, BASE, 0.05, None)[0]) == ("fp32 bf16 bf16", 15.0, 0.02)
    assert one(choose(COSTS, BASE, 0.10, None)[0]) == ("fp32 int8 bf16", 13.0, 0.09)
    assert one(choose(COSTS, BASE, 1.00, None)[0]) == ("bf16 int8 bf16", 9.0, 0.39)


def test_the_choice_that_loses_least_within_a_time_is_first() -> None:
    assert one(choose(COSTS, BASE, None, 18.0)[0]) == ("fp32 fp32 bf16", 18.0, 0.0)
    assert one(choose(COSTS, BASE, None, 15.0)[0]) == ("fp32 bf16 bf16", 15.0, 0.02)
    assert choose(COSTS, BASE, None, 8.0) == []


def test_context_has_eight_bits_on_a_gpu_only_beside_a_rectification_that_has() -> None:
    costs = {name: {"fp16": NOTHING, "fp8": NOTHING} for name in ("context", "rectify")}
    found = [tuple(choice.values()) for choice, _ in choices(costs, BASE)]
    assert found == [("fp16", "fp16"), ("fp16", "fp8"), ("fp8", "fp8")]


def test_each_block_is_measured_by_itself() -> None:
    asked = []

    def bench(choice: Choice) -> Cost:
        asked.append(choice)
        own = {"flow": 4.0, "depth": 2.0, "context": 1.0, "rectify": 8.0}
        return Cost(20.0 - sum(own[name] for name, each in choice.items() if each == "fp8"), 0.5)

    offered = {"flow": ("fp16",), "context": ("fp16", "fp8"), "rectify": ("fp16", "fp8")}
    base, costs = measure(bench, offered)
    assert base == Cost(20.0, 0.5)
    assert {name: each.get("fp8") for name, each in costs.items()} == {
        "flow": None,
        "context": Cost(-1.0, 0.0),
        "rectify": Cost(-8.0, 0.0),
    }
    assert {"flow": "fp16", "context": "fp8", "rectify": "fp16"} not in asked  # the kernels do not have it


def test_what_is_chosen_is_measured_as_a_whole() -> None:
    """Losses need not add up: the first choice that keeps to the budget when it is measured is taken."""
    ranked = choose(COSTS, BASE, 0.1, None)
    measured = {"fp32 int8 bf16": Cost(12.0, 0.2), "fp32 bf16 bf16": Cost(16.0, 0.05)}

    def bench(choice: Choice) -> Cost:
        return measured.get(" ".join(choice.values()), Cost(99.0, 9.0))

    widest = dict.fromkeys(COSTS, "fp32"), BASE
    choice, cost = best(bench, ranked, lambda cost: cost.loss <= 0.1, widest)
    assert (" ".join(choice.values()), cost) == ("fp32 bf16 bf16", Cost(16.0, 0.05))
    with pytest.raises(CompressionError, match="allow a larger --loss, or a longer --time"):
        best(bench, ranked, lambda cost: False, widest)
    assert best(bench, ranked, lambda cost: cost.loss <= 0.0, widest) == widest


def test_a_cpu_offers_eight_bits_where_it_has_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped, own = registry()["dain-lite"], Entry("own", NETWORKS["dain-lite"], tmp_path / "own.safetensors")
    for has, expected in ((True, ("fp32", "bf16", "int8")), (False, ("fp32", "bf16"))):
        monkeypatch.setattr(module, "has_instructions", lambda has=has: has)
        assert offers(shipped, CPU) == dict.fromkeys(
            ("flow", "depth", "context", "kernels", "rectify"), expected
        )
        assert set(offers(own, CPU).values()) == {("fp32", "bf16")}  # it is not calibrated


def test_a_profile_is_written(tmp_path: Path, frames: Path) -> None:
    models, out = tmp_path / "models", tmp_path / "own.json"
    models.mkdir()
    save(random_network(SMALL).state_dict(), models / "own.safetensors", "fp32", SMALL)
    args = ("own", out, "--data", frames, "--models", models, "--device", "cpu", "--pairs", 1, "--repeats", 1)
    answer = run(*args, "--size", "64x64", "--loss", 100)
    assert answer.exit_code == 0, answer.output
    profile = read_profile(out)
    assert profile.model == "own" and profile.size == [64, 64]
    assert profile.blocks.keys() == {"flow", "depth", "context", "kernels", "rectify"}
    assert set(profile.blocks.values()) <= {"fp32", "bf16"}
    assert "dB lost" in answer.output and "chosen" in answer.output


def test_what_is_slower_than_the_widest_precision_is_not_chosen(
    tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each block gains by itself, and all of them lose together."""

    def bench(choice: Choice) -> Cost:
        narrow = sum(precision != "fp32" for precision in choice.values())
        return Cost(20.0 - narrow if narrow < 2 else 30.0, 0.0)

    monkeypatch.setattr(module, "Bench", lambda *args: bench)
    answer = run("dain-lite", tmp_path / "own.json", "--data", frames, "--device", "cpu", "--loss", 1)
    assert answer.exit_code == 0, answer.output
    assert set(read_profile(tmp_path / "own.json").blocks.values()) == {"fp32"}


def test_what_cannot_be_tuned_is_refused_in_a_sentence(tmp_path: Path, frames: Path) -> None:
    out, empty = tmp_path / "profile.json", tmp_path / "empty"
    out.write_text("a good file")
    empty.mkdir()
    cases = [
        (("rife", out, "--data", frames), "no model is called 'rife': choose one of dain"),
        (("dain-lite", out, "--data", empty), "empty"),
        (("dain-lite", out, "--data", tmp_path / "absent"), "absent"),
        (("dain-lite", tmp_path / "none" / "x.json", "--data", frames), "there is no folder"),
        (("dain-lite", "/proc/x.json", "--data", frames), "cannot write /proc/x.json"),
        (("dain-lite", out, "--data", frames, "--loss", 1, "--time", 1), "exclude each other"),
        (("dain-lite", out, "--data", frames, "--device", "tpu"), "no device is called 'tpu'"),
        (("dain-lite", out), "Missing option '--data'"),
    ]
    for args, message in cases:
        answer = run(*args)
        assert answer.exit_code != 0 and message in " ".join(answer.output.split()), (args, answer.output)
        assert isinstance(answer.exception, SystemExit), (args, answer.exception)
    assert out.read_text() == "a good file"


def test_a_budget_that_no_choice_keeps_to_leaves_the_last_profile(
    tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "profile.json"
    out.write_text(json.dumps({"kind": "good"}))
    monkeypatch.setattr(module, "Bench", lambda *args: lambda choice: Cost(50.0, 0.0))
    answer = run("dain-lite", out, "--data", frames, "--device", "cpu", "--time", 1)
    assert answer.exit_code == 1 and "no choice of precisions keeps to the budget" in answer.output
    assert json.loads(out.read_text()) == {"kind": "good"}
