"""Makes the pictures and the table of docs/quality.md: for each kind of picture, the worst case that is found.

    python docs/examples/quality.py --footage FOLDER --method docs/examples/rife425.py --method docs/examples/rife.py

FOLDER holds the clips of `FILMS`, and docs/quality.md says where they are from. Made scenes move things of known motion
over a frame of the stream. Of each kind the judged model makes some frames, and the detail with the largest error
is shown, as every method makes it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dain_core.evaluation.clips import Film, Selection
from dain_core.evaluation.command import load_methods
from dain_core.evaluation.methods import Method
from dain_core.evaluation.metrics import psnr, ssim

ROOT = Path(__file__).parents[2]
PICTURES, PAGE = ROOT / "docs/images/quality", ROOT / "docs/quality.md"
JUDGED, BEFORE = "dain-refined", "dain"
FILMS = {"repeating patterns": "cityCC0.mpg", "near and fast": "sister.mkv", "water": "stream-of-water.mp4"}
CROP = 448, 320  # the width and height in pixels that are cut out of the middle of a film
SIZE = 352, 240  # and those of a made scene
FRAMES = 6  # frames of each kind
DETAIL = 96, 128  # its rows and columns
SHOWN = 192  # the columns of a detail in a picture
STEP = 8  # a detail begins at multiples of it
GRAIN = 12.0  # standard deviation in 8-bit levels
FINE = 4  # shapes are drawn so many times as large, and shrunk

#: The first frame, the true frame and the last frame, (1, 3, H, W), in [0, 1].
Triplet = tuple[Tensor, Tensor, Tensor]
#: Draws over a picture at a time in [0, 1].
Draw = Callable[[Image.Image, float], Image.Image]


class Scene:
    """A camera that pans over a photograph, and what moves before it, both at random.

    Args:
        photograph: larger than `SIZE`.
        rng: the source of random numbers.
    """

    def __init__(self, photograph: Image.Image, rng: np.random.Generator) -> None:
        self.photograph, self.rng = photograph, rng
        self.start = rng.uniform(0.25, 0.75, 2) * (np.array(photograph.size) - SIZE)

    def motion(self, low: float, high: float) -> np.ndarray:
        """Draw a motion of `low` to `high` pixels from first to last, (x, y), mostly sideways."""
        angle = self.rng.uniform(-0.5, 0.5) + np.pi * self.rng.integers(2)
        return self.rng.uniform(low, high) * np.array([np.cos(angle), np.sin(angle)])

    def frames(self, pan: np.ndarray, draw: Draw = lambda picture, time: picture) -> list[Image.Image]:
        """Return the frames at 0, 0.5 and 1 while the camera moves by `pan` pixels."""
        return [draw(self._background(pan, time), time) for time in (0, 0.5, 1)]

    def _background(self, pan: np.ndarray, time: float) -> Image.Image:
        x, y = self.start + (time - 0.5) * pan
        return self.photograph.transform(
            SIZE, Image.Transform.AFFINE, (1, 0, x, 0, 1, y), Image.Resampling.BICUBIC
        )

    def thin_and_fast(self) -> list[Image.Image]:
        """Rods of one to two pixels."""
        motion, lean = self.motion(24, 60), self.rng.uniform(-40, 40, 5)
        places, widths = self.rng.uniform(0, SIZE[0], 5), self.rng.uniform(1, 2, 5)

        def draw(picture: Image.Image, time: float) -> Image.Image:
            mask = _canvas(0)
            pen = ImageDraw.Draw(mask)
            for place, across, width in zip(places, lean, widths, strict=True):
                at = place + (time - 0.5) * motion[0]
                ends = (FINE * (at - across), 0, FINE * (at + across), FINE * SIZE[1])
                pen.line(ends, 255, round(FINE * width))
            return _covered(picture, Image.new("RGB", SIZE, (224, 208, 176)), mask)

        return self.frames(self.motion(2, 6), draw)

    def borders(self) -> list[Image.Image]:
        """A pan, by which a sixth of the picture comes in at the border."""
        return self.frames(self.motion(40, 64))

    def disocclusion(self) -> list[Image.Image]:
        """A piece of a photograph that passes before another piece."""
        motion, side = self.motion(32, 56), self.rng.uniform(70, 110)
        centre, board = np.array(SIZE) / 2, self.photograph.transpose(Image.Transpose.ROTATE_180)

        def draw(picture: Image.Image, time: float) -> Image.Image:
            x, y = centre + (time - 0.5) * motion - side / 2
            mask = _canvas(0)
            ends = FINE * np.array([x, y, x + side, y + side])
            ImageDraw.Draw(mask).ellipse(ends.tolist(), 255)
            patch = board.transform(
                SIZE, Image.Transform.AFFINE, (1, 0, 200 - x, 0, 1, 200 - y), Image.Resampling.BICUBIC
            )
            return _covered(picture, patch, mask)

        return self.frames(self.motion(4, 12), draw)

    def text_and_logos_over_motion(self) -> list[Image.Image]:
        """A subtitle and a half-transparent logo that stand still."""

        def draw(picture: Image.Image, time: float) -> Image.Image:
            pen = ImageDraw.Draw(picture)
            font = ImageFont.load_default(22)
            style = {"font": font, "fill": "white", "stroke_width": 2, "stroke_fill": "black", "anchor": "mm"}
            pen.text((SIZE[0] / 2, SIZE[1] - 28), "All that you see is moving", **style)
            mask = _canvas(0)
            pen = ImageDraw.Draw(mask)
            pen.ellipse(
                [FINE * (SIZE[0] - 70), FINE * 16, FINE * (SIZE[0] - 24), FINE * 62], outline=150, width=20
            )
            large = ImageFont.load_default(22 * FINE)
            pen.text((FINE * (SIZE[0] - 47), FINE * 39), "TV", fill=150, font=large, anchor="mm")
            return _covered(picture, Image.new("RGB", SIZE, "white"), mask)

        return self.frames(self.motion(16, 40), draw)

    def grain(self) -> list[Image.Image]:
        """A slow pan, with grain of its own in each frame, the true one too."""

        def draw(picture: Image.Image, time: float) -> Image.Image:
            noisy = np.asarray(picture) + self.rng.normal(0, GRAIN, (SIZE[1], SIZE[0], 1))
            return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))

        return self.frames(self.motion(2, 8), draw)


#: The kinds in the order of the page, and for those that are not of `FILMS` the scene.
KINDS: Mapping[str, Callable[[Scene], list[Image.Image]] | None] = {
    "thin and fast": Scene.thin_and_fast,
    "near and fast": None,
    "borders": Scene.borders,
    "disocclusion": Scene.disocclusion,
    "text and logos over motion": Scene.text_and_logos_over_motion,
    "repeating patterns": None,
    "water": None,
    "grain": Scene.grain,
}


def candidates(kind: str, footage: Path) -> Iterator[tuple[str, Triplet]]:
    """Give the triplets of a kind, and their names."""
    scene = KINDS[kind]
    if scene is None:
        for sample in Film.video(footage / FILMS[kind]).samples(Selection(2 * FRAMES, crop=CROP)):
            frames = [frame.float() / 255 for frame in (sample.first, *sample.truths, sample.last)]
            yield f"{FILMS[kind]}, frame {sample.name}", (frames[0], frames[1], frames[2])
        return
    first = next(Film.video(footage / FILMS["water"]).samples(Selection(1))).first
    photograph = Image.fromarray(first[0].permute(1, 2, 0).numpy())
    for seed in range(FRAMES):
        made = scene(Scene(photograph, np.random.default_rng(seed)))
        frames = [
            torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None].float() / 255 for picture in made
        ]
        yield f"made, seed {seed}", (frames[0], frames[1], frames[2])


def made_by(method: Method, triplet: Triplet, name: str) -> Tensor:
    first, _, last = triplet
    return method.frames(first, last, [0.5], name)


def worst_detail(made: Tensor, truth: Tensor) -> tuple[float, slice, slice]:
    """Return the largest mean squared error of a detail, and its rows and columns."""
    errors = F.avg_pool2d((made - truth).square().mean(1, keepdim=True), DETAIL, stride=STEP)
    row, column = divmod(int(errors.argmax()), errors.shape[-1])
    rows = slice(row * STEP, row * STEP + DETAIL[0])
    return float(errors.max()), rows, slice(column * STEP, column * STEP + DETAIL[1])


def strip(details: Sequence[Tensor]) -> Image.Image:
    """Put details side by side."""
    height, gap = SHOWN * DETAIL[0] // DETAIL[1], 4
    made = Image.new("RGB", (len(details) * (SHOWN + gap) - gap, height), "white")
    for index, detail in enumerate(details):
        pixels = (detail[0] * 255).round().byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        made.paste(picture.resize((SHOWN, height), Image.Resampling.BICUBIC), (index * (SHOWN + gap), 0))
    return made


def row_of(kind: str, judged: Method, methods: Sequence[Method], footage: Path) -> str:
    """Write the picture of a kind's worst case; return its row of the table."""
    found = []
    for name, triplet in candidates(kind, footage):
        found.append((worst_detail(made_by(judged, triplet, name), triplet[1]), name, triplet))
    (_, rows, columns), name, triplet = max(found, key=lambda case: case[0][0])
    first, truth, last = (frame[..., rows, columns] for frame in triplet)
    frames = [made_by(method, triplet, name)[..., rows, columns] for method in methods]
    path = PICTURES / f"{kind.replace(' ', '-')}.webp"
    strip([(first + last) / 2, truth, *frames]).save(path, quality=80, method=6)
    best = max(psnr(frame, truth) for frame in frames)
    figures = [
        f"{'**' * (psnr(frame, truth) == best)}{psnr(frame, truth):.2f}{'**' * (psnr(frame, truth) == best)} / "
        f"{ssim(frame, truth):.3f}"
        for frame in frames
    ]
    return f"| {kind} | {name} | {' | '.join(figures)} |"


def _canvas(level: int) -> Image.Image:
    return Image.new("L", (FINE * SIZE[0], FINE * SIZE[1]), level)


def _covered(picture: Image.Image, colour: Image.Image, mask: Image.Image) -> Image.Image:
    return Image.composite(colour, picture, mask.resize(SIZE, Image.Resampling.BOX))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--footage", type=Path, required=True)
    parser.add_argument("--method", action="append", default=[], help="as of dain eval")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    PICTURES.mkdir(parents=True, exist_ok=True)
    methods = load_methods([BEFORE, JUDGED], ["auto"], options.method, options.device)
    head = ["kind", "case", *(method.name for method in methods)]
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for kind in KINDS:
        lines.append(row_of(kind, methods[1], methods, options.footage))
        print(lines[-1], flush=True)
    text = PAGE.read_text()
    table = re.compile(r"^\| kind \|(.*\n)+?(?=\n)", re.MULTILINE)
    PAGE.write_text(table.sub(lambda _: "\n".join(lines) + "\n", text, count=1))


if __name__ == "__main__":
    main()
