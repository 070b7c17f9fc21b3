"""Weights files: what is shipped, what is refused and why, conversion, download over real HTTP."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from dain_core.network.networks import NETWORKS
from dain_core.weights import files as checkpoint
from dain_core.weights.cli import weights as command
from dain_core.weights.files import WeightsError, download, load_weights, read, save


@pytest.fixture(scope="module")
def best_pth(formula_weights: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint as the authors saved theirs."""
    path = tmp_path_factory.mktemp("weights") / "best.pth"
    torch.save(formula_weights, path, _use_new_zipfile_serialization=False)
    return path


def test_shipped_weights_are_complete_and_small(official_keys: dict[str, object]) -> None:
    state = load_weights("dain")
    assert state.keys() == official_keys.keys()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert checkpoint.shipped_path("dain").stat().st_size < 25_000_000


def test_a_changed_shipped_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checkpoint.SHIPPED, "dain", "0" * 64)
    with pytest.raises(WeightsError, match="damaged.*install the project again"):
        load_weights("dain")


def test_the_authors_checkpoint_loads(best_pth: Path, formula_weights: dict[str, Tensor]) -> None:
    state = load_weights(best_pth)
    assert state.keys() == formula_weights.keys()
    assert all(torch.equal(state[key], value) for key, value in formula_weights.items())


@pytest.mark.parametrize(("layout", "bytes_a_weight", "error"), [("int8", 1.04, 0.02), ("fp16", 2.01, 5e-4)])
def test_conversion(best_pth: Path, tmp_path: Path, layout: str, bytes_a_weight: float, error: float) -> None:
    """The error is relative to the spread of the formula's normal weights, whose largest set the int8 scale."""
    target = tmp_path / "converted.safetensors"
    answer = CliRunner().invoke(command, ["convert", str(best_pth), str(target), "--layout", layout])
    assert answer.exit_code == 0, answer.output
    assert target.stat().st_size < bytes_a_weight * 24_031_656
    before, after = load_weights(best_pth), load_weights(target)
    for key, value in before.items():
        if value.is_floating_point():
            assert (after[key] - value).abs().mean() <= error * value.abs().mean(), key
    assert list(tmp_path.iterdir()) == [target]


def test_a_mean_of_weights(best_pth: Path, formula_weights: dict[str, Tensor], tmp_path: Path) -> None:
    other, target = tmp_path / "other.safetensors", tmp_path / "mean.safetensors"
    save({key: 5 * value for key, value in formula_weights.items()}, other, "fp32")
    run = CliRunner().invoke
    answer = run(command, ["mean", f"{best_pth}=1", f"{other}=3", str(target), "--layout", "fp32"])
    assert answer.exit_code == 0, answer.output
    for key, value in load_weights(target).items():
        expected = 4 * formula_weights[key] if value.is_floating_point() else formula_weights[key]
        torch.testing.assert_close(value, expected)
    for source in (str(other), f"{other}=0", f"{other}=-1", "=1"):
        answer = run(command, ["mean", source, str(target)])
        assert answer.exit_code == 2 and "SOURCE=SHARE" in answer.output, source


def test_int8_channels_use_their_whole_range() -> None:
    weight = torch.randn(16, 64, 3, 3) * torch.logspace(-4, 2, 16).view(-1, 1, 1, 1)
    small = checkpoint.quantise({"weight": weight, "bias": torch.ones(16)})
    assert small["weight"].dtype == torch.int8 and small["bias"].dtype == torch.float16
    assert small["weight"].abs().amax((1, 2, 3)).tolist() == [127] * 16
    error = (checkpoint.dequantise(small)["weight"] - weight) / small["weight.scale"]
    assert (error.abs() <= 1.001).all() and error.square().mean() < 0.15
    assert (error.sum((2, 3)).abs() <= 0.501).all()  # a kernel's sum matters more than its taps


def test_what_is_int8_already_stays_as_it_is() -> None:
    small = checkpoint.quantise({"weight": torch.randn(16, 64, 3, 3)})
    again = checkpoint.quantise(checkpoint.dequantise(small))
    assert torch.equal(again["weight"], small["weight"])


def test_large_kernels_have_a_scale_each() -> None:
    """As in the rectification, whose inputs are of many kinds."""
    weight = torch.randn(16, 64, 7, 7) * torch.logspace(-2, 2, 64).view(1, -1, 1, 1)
    restored = checkpoint.dequantise(checkpoint.quantise({"weight": weight}))["weight"]
    error, size = ((x.square().mean((0, 2, 3))).sqrt() for x in (restored - weight, weight))
    assert (error / size).max() < 0.01


def test_a_channel_of_zeros_stays_zero() -> None:
    small = checkpoint.quantise({"weight": torch.zeros(16, 64, 3, 3)})
    assert checkpoint.dequantise(small)["weight"].abs().max() == 0


def test_weights_that_do_not_fit_are_named(formula_weights: dict[str, Tensor], tmp_path: Path) -> None:
    """The first difference comes first; one of a shape before one of keys, which another version may explain."""
    path = tmp_path / "other.safetensors"

    def message(**changes: Tensor | None) -> str:
        state = {key: value for key, value in (formula_weights | changes).items() if value is not None}
        save(state, path, "fp16")
        with pytest.raises(WeightsError) as caught:
            load_weights(path)
        return str(caught.value)

    assert message(**{"depthNet.4.bias": None}) == (
        f"{path} does not fit dain: depthNet.4.bias is missing (of 954 weights: 1 missing); "
        "use weights of the same model and version"
    )
    assert "optimizer.0 is none of its weights (of 954 weights: 2 unknown)" in message(
        **{"optimizer.0": torch.zeros(1), "optimizer.1": torch.zeros(1)}
    )
    found = message(**{"depthNet.4.weight": torch.zeros(1, 63, 3, 3), "depthNet.4.bias": None})
    assert "depthNet.4.weight is (1, 63, 3, 3) instead of (1, 64, 3, 3)" in found
    assert "1 of another shape, 1 missing" in found


def test_weights_of_another_model_are_recognised(tmp_path: Path) -> None:
    lite = checkpoint.shipped_path("dain-lite")
    with pytest.raises(WeightsError, match="they are weights of dain-lite: choose that model"):
        load_weights(lite)
    foreign = tmp_path / "foreign.safetensors"
    save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, foreign, "fp32")
    with pytest.raises(WeightsError, match="they are of no network that this version knows"):
        load_weights(foreign)


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        (
            {"context.levels.0.0.0.bias": None},
            "context.levels.0.0.0.bias is missing (of 1057 weights: 1 missing)",
        ),
        ({"step": torch.zeros(1)}, "step is none of its weights (of 1057 weights: 1 unknown)"),
        (
            {"context.levels.0.0.0.bias": torch.zeros(8)},
            "context.levels.0.0.0.bias is (8,) instead of (32,) (of 1057 weights: 1 of another shape)",
        ),
    ],
)
def test_the_model_that_weights_come_nearest_to_is_named(
    tmp_path: Path, changes: dict[str, Tensor | None], where: str
) -> None:
    path = tmp_path / "changed.pth"
    state = {
        key: torch.zeros(()).expand(shape)
        for key, shape in checkpoint.expected_shapes(NETWORKS["dain-refined"]).items()
    }
    torch.save({key: value for key, value in (state | changes).items() if value is not None}, path)
    answer = CliRunner().invoke(command, ["verify", str(path)])
    assert answer.exit_code == 1
    assert f"they come nearest to dain-refined, where {where}" in answer.output


def test_weights_within_something_else_are_pointed_at(
    formula_weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "saved.pth"
    for saved, message in (
        ({"model": formula_weights, "step": 7}, "holds more than weights: save 'model' of it alone"),
        (
            {f"module.{key}": value for key, value in formula_weights.items()},
            "they are weights of dain with 'module.' before each name: save the model without its wrapper",
        ),
        ({}, "holds no weights: save the state_dict"),
    ):
        torch.save(saved, path)
        with pytest.raises(WeightsError, match=message):
            load_weights(path)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at"):
        load_weights(tmp_path / "absent.pth")
    for name, words in (("README.md", "# no"), ("text.pth", "hello\n"), ("text.safetensors", "# no")):
        (tmp_path / name).write_text(words)
        with pytest.raises(WeightsError, match="no readable") as caught:
            load_weights(tmp_path / name)
        # PyTorch's own words advise to load the file unsafely.
        assert "weights_only" not in str(caught.value) and "trust" not in str(caught.value)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(WeightsError, match="neither a .safetensors nor a .pth file, or is incomplete"):
        load_weights(tmp_path / "empty.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="state dict"):
        load_weights(tmp_path / "list.pth")
    save_file({"weight": torch.zeros(4, dtype=torch.int8)}, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="weight without its scale"):
        read(tmp_path / "bare.safetensors")


@pytest.mark.parametrize("name", ["dain.safetensors", "dain.pth"])
@pytest.mark.parametrize("keep", [7, 0.5, 0.999])
def test_a_file_that_ends_too_early_is_refused(tmp_path: Path, name: str, keep: float) -> None:
    path = tmp_path / name
    small = {"weight": torch.randn(64, 64, 3, 3)}
    torch.save(small, path) if path.suffix == ".pth" else save(small, path, "fp32")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(WeightsError, match="no readable"):
        load_weights(path)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"weight": print}, path)
    with pytest.raises(WeightsError, match="not opened because it could run code") as caught:
        load_weights(path)
    assert "weights_only" not in str(caught.value)


@pytest.fixture
def file_server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTP server's address, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_download_keeps_only_the_right_file(file_server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = file_server
    content = b"weights" * 100_000
    (folder / "best.pth").write_bytes(content)
    git_blob = hashlib.sha1(b"blob 700000\0" + content).hexdigest()
    target = tmp_path / "new" / "best.pth"
    with pytest.raises(WeightsError, match="not the file expected"):
        download(target, url=f"{address}/best.pth", git_blob="0" * 40)
    assert list(target.parent.iterdir()) == []
    download(target, url=f"{address}/best.pth", git_blob=git_blob)
    assert target.read_bytes() == content


def test_a_download_that_fails_says_what_to_do(file_server: tuple[str, Path], tmp_path: Path) -> None:
    address, _ = file_server
    for url in (f"{address}/absent.pth", "http://127.0.0.1:1/best.pth"):
        with pytest.raises(WeightsError, match="could not download.*by other means"):
            download(tmp_path / "best.pth", url=url)
    assert not (tmp_path / "best.pth").exists()


def test_commands_list_and_verify(best_pth: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert checkpoint.SHIPPED["dain"] in run(command, ["list"]).output
    assert "954 tensors, 24,031,656 parameters" in run(command, ["verify"]).output
    for source in (best_pth, checkpoint.shipped_path("dain-lite")):  # what they fit is found
        assert "good" in run(command, ["verify", str(source)]).output
    answer = run(command, ["verify", str(checkpoint.shipped_path("dain-lite")), "--model", "dain-refined"])
    assert answer.exit_code == 1 and "they are weights of dain-lite: choose that model" in answer.output
    answer = run(command, ["verify", str(tmp_path / "absent.pth")])
    assert answer.exit_code == 1 and "\nError: there are no weights at" in answer.output
    answer = run(command, ["convert", str(best_pth), str(tmp_path / "out.bin")])
    assert answer.exit_code == 2 and "safetensors" in answer.output
    answer = run(command, ["convert", str(best_pth), str(tmp_path / "absent" / "out.safetensors")])
    assert answer.exit_code == 2 and "there is no folder" in answer.output
    (tmp_path / "file").touch()
    answer = run(command, ["download", str(tmp_path / "file" / "best.pth")])
    assert answer.exit_code == 1 and "cannot write" in answer.output


def test_saved_files_are_plain_safetensors(tmp_path: Path) -> None:
    save({"weight": torch.ones(2, 2)}, tmp_path / "small.safetensors", "fp32")
    assert torch.equal(load_file(tmp_path / "small.safetensors")["weight"], torch.ones(2, 2))
    with pytest.raises(ValueError, match="int8, fp16, fp32"):
        save({}, tmp_path / "small.safetensors", "int4")
