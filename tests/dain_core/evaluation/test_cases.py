from __future__ import annotations

from pathlib import Path

import torch

from dain_core.evaluation.cases import Case, Worst, depth_case, frame_case, ranks
from dain_core.evaluation.pictures import read_picture
from dain_core.evaluation.scores import Score


def scores_of(psnr: float, other: float | None = None) -> list[Score]:
    methods = {"ours": psnr} if other is None else {"ours": psnr, "other": other}
    return [Score("clip", "7", 0.5, name, {"psnr": x}) for name, x in methods.items()]


def decoded(picture: bytes, folder: Path) -> torch.Tensor:
    (folder / "a.png").write_bytes(picture)
    return read_picture(folder / "a.png")


def test_the_worst_of_each_clip_are_kept() -> None:
    worst, built = Worst(2), []
    for clip, rank in (("a", 3), ("a", 9), ("a", 1), ("a", 5), ("b", 2)):

        def build(name: str = f"{clip}{rank}") -> Case:
            built.append(name)
            return Case(name, "", [])

        worst.offer(clip, {"worst": rank}, build)
    assert [case.heading for case in worst.cases("worst")] == ["a9", "a5", "b2"]
    assert worst.cases("behind") == []
    assert built == ["a3", "a9", "a5", "b2"], "pictures are made of cases that are kept"


def test_none_are_kept_if_none_are_wanted() -> None:
    worst = Worst(0)
    worst.offer("a", {"worst": 1}, lambda: Case("", "", []))
    assert worst.cases("worst") == []


def test_how_bad_a_frame_is() -> None:
    assert ranks(scores_of(30, 31.5)) == {"worst": -30, "behind": 1.5}
    assert ranks(scores_of(30, 29)) == {"worst": -30}
    assert ranks(scores_of(30)) == {"worst": -30}


def test_the_detail_is_where_the_judged_method_is_worst(tmp_path: Path) -> None:
    truth = torch.zeros(1, 3, 200, 300)
    ours, other = truth.clone(), truth.clone()
    ours[..., 150:160, 240:250] = 1
    other[..., 10:20, 10:20] = 1
    case = frame_case(scores_of(20, 21), (truth, truth), truth, {"ours": ours, "other": other})
    whole, detail, errors = case.rows
    assert case.heading == "clip 7" and case.verdict == "ours: PSNR 20.00; other is 1.00 dB better"
    assert list(whole.pictures) == ["inputs ", "truth ", "ours PSNR 20.00", "other PSNR 21.00"]
    shown = decoded(detail.pictures["ours"], tmp_path)
    assert shown.shape == (1, 3, 96, 128) and int((shown == 255).sum()) == 3 * 100
    assert errors.skip + len(errors.pictures) == len(whole.pictures), "errors stand under their frames"


def test_depth_is_shown_on_the_scale_of_the_truth(tmp_path: Path) -> None:
    truth = torch.linspace(1, 2, 64).expand(64, 64).contiguous()
    [row] = depth_case(scores_of(1), torch.zeros(1, 3, 64, 64).byte(), truth, {"ours": 7 * truth}).rows
    _, true, ours = (decoded(picture, tmp_path).float() for picture in row.pictures.values())
    assert true[0, 0, 0, 0] > 200 and true[0, 0, 0, -1] < 55, "near is white"
    assert (true - ours).abs().max() < 8
