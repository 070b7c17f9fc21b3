"""`dain interpolate`: videos on this machine, without a service.

Only its options are here, so that whoever asks for help or mistypes one does not wait for PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, get_args

import click

from service.jobs import formats
from service.jobs.clips import clips_of
from service.jobs.options import (
    SHIPPED_MODELS,
    Options,
    parse_color,
    parse_enhance,
    parse_rate,
    parse_seconds,
    parse_speed,
    settle_rate,
)
from service.jobs.stills import archived
from worker.publishing import check_free

PRECISIONS = ("fp32", "fp16", "bf16", "fp8", "int8")  #: the engine's


class Exact(click.ParamType):
    """What `parse` reads; its ValueError says what is wrong."""

    def __init__(self, name: str, parse: Callable[[object], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(self._parse(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


@click.command()
@click.argument("words", metavar="IN... OUT", nargs=-1, required=True, type=click.Path())
@click.option("--overwrite", is_flag=True, help="Replace OUT if there is such a file.")
@click.option(
    "--preview",
    "is_preview",
    is_flag=True,
    help="Make OUT, an MP4, of two seconds: IN on the left and the result on the right, slowed; and open it.",
)
@click.option(
    "--factor",
    type=click.IntRange(2, 16),
    metavar="N",
    help="Frames per source frame, 2 to 16.  [default: 2]",
)
@click.option(
    "--target-fps",
    type=Exact("rate", parse_rate),
    help="Frame rate instead of a factor: 60, 59.94, 60000/1001.",
)
@click.option(
    "--speed",
    type=Exact("speed", parse_speed),
    help="Slow motion: 0.5, 1/3, down to 1/16; without sound, or with --audio stretch.",
)
@click.option(
    "--model",
    type=click.Choice(SHIPPED_MODELS),
    default="auto",
    show_default=True,
    help="Network that interpolates; auto is dain-refined on a GPU and dain-lite on a CPU.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", *PRECISIONS]),
    default="auto",
    show_default=True,
)
@click.option(
    "--profile",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="DAIN_PROFILE",
    help="File that `dain tune` wrote, if the model is its; the setting DAIN_PROFILE otherwise.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option(
    "--container",
    type=click.Choice(formats.CONTAINERS),
    help="Kind of file; unless given, the one that OUT's name says, with pictures as PNG in a .zip.",
)
@click.option(
    "--codec",
    type=click.Choice(["auto", *formats.CODECS]),
    default="auto",
    show_default=True,
    help="Codec of the pictures; auto is h264, vp9 in a .webm.",
)
@click.option(
    "--quality",
    type=click.IntRange(0, 51),
    default=18,
    show_default=True,
    help="0 (lossless) to 51 (worst), on the scale of H.264's CRF for every codec.",
)
@click.option(
    "--preset",
    type=click.Choice(["auto", *formats.PRESETS]),
    default="auto",
    show_default=True,
    help="How hard the encoder tries.",
)
@click.option(
    "--pixel-format",
    type=click.Choice(["source", "compatible", *formats.PLANES]),
    default="source",
    show_default=True,
    help="Bits and colour resolution; compatible is what all browsers play.",
)
@click.option(
    "--max-bitrate",
    type=Exact("bitrate", formats.parse_bitrate),
    help="Most bits a second of the pictures: 8M, 800k.",
)
@click.option(
    "--audio",
    type=click.Choice(get_args(formats.AudioName)),
    help="The sound: copy what players know, best keeps all, aac, stretch in slow motion, none.",
)
@click.option(
    "--scene-threshold",
    type=click.FloatRange(0, 1),
    default=0.3,
    show_default=True,
    help="How unlike two frames are at a cut, where nothing is blended: 0 to 1; 1 finds none, nor fades and flashes.",
)
@click.option(
    "--deinterlace",
    type=click.Choice(["auto", "off", "bob", "weave"]),
    default="auto",
    show_default=True,
    help="What is done with interlaced and telecined video; bob: a frame of each field.",
)
@click.option(
    "--dedup",
    type=click.Choice(["auto", "off", "retime"]),
    default="auto",
    show_default=True,
    help="What is done with frames that repeat the one before; retime: left out.",
)
@click.option("--no-audio", is_flag=True, help="Leave the sound out.")
@click.option(
    "--mask",
    "mask_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A PNG that is white where IN stands still, such as text and logos.",
)
@click.option(
    "--enhance",
    type=Exact("list", parse_enhance),
    default="none",
    show_default=True,
    help="What is done with all frames in the end: deband, denoise, sharpen, with commas between.",
)
@click.option(
    "--grain",
    type=click.Choice(["off", "keep"]),
    default="off",
    show_default=True,
    help="keep gives new frames as much grain as those around them have.",
)
@click.option(
    "--background",
    type=Exact("colour", parse_color),
    default="#000000",
    show_default=True,
    help="Colour behind what is transparent: #rrggbb, or a name such as white.",
)
@click.option(
    "--start",
    type=Exact("time", parse_seconds),
    help="Where in IN the result begins: seconds, or 0:01:30.5.",
)
@click.option("--duration", type=Exact("time", parse_seconds), help="How much of IN is taken.")
@click.option("--loop", is_flag=True, help="Make new frames from the last to the first, too.")
@click.option(
    "--video-stream",
    type=click.IntRange(0),
    help="Number in IN of the moving picture to take.  [default: the largest]",
)
@click.option(
    "--source-fps",
    type=Exact("rate", parse_rate),
    help="Frame rate of an IN that holds no times.  [default: its own, or 25]",
)
@click.option("--strict", is_flag=True, help="Stop where something of IN would be lost.")
def interpolate(
    words: tuple[str, ...],
    overwrite: bool,
    is_preview: bool,
    factor: int | None,
    target_fps: str | None,
    speed: str | None,
    model: str,
    precision: str,
    profile: Path | None,
    device: str,
    scene_threshold: float,
    no_audio: bool,
    mask_path: Path | None,
    enhance: str,
    grain: str,
    background: str,
    start: str | None,
    duration: str | None,
    loop: bool,
    video_stream: int | None,
    source_fps: str | None,
    deinterlace: str,
    dedup: str,
    strict: bool,
    **delivered: object,
) -> None:
    """Make videos smoother, or slower, and write them to OUT, whose name says what kind of file it is.

    IN is a file, a folder of videos, a pattern such as 'clips/*.mp4', or a folder of pictures, which is one video. OUT
    ends in .mp4, .mkv, .mov, .webm, .gif, .apng, .webp or .zip (of pictures); of several videos it is a folder, which
    is made. IN is never changed. OUT appears when it is whole.
    """
    sources, target = _videos(words)
    in_folder = target.is_dir() or words[-1].endswith(os.sep) or (len(sources) > 1 and not target.suffix)
    wanted: dict[str, object] = {
        "factor": factor,
        "target_fps": target_fps,
        "speed": speed,
        "model": model,
        "scene_threshold": scene_threshold,
        "enhance": enhance,
        "grain": grain,
        "background": background,
        "start": start,
        "duration": duration,
        "loop": loop,
        "video_stream": video_stream,
        "source_fps": source_fps,
        "deinterlace": deinterlace,
        "dedup": dedup,
        "strict": strict,
        **delivered,
    }
    if is_preview:
        wanted["container"] = "mp4"
    elif not in_folder:
        wanted["container"] = delivered["container"] or formats.container_of(target.suffix)
    if no_audio:
        wanted["audio"] = "none"
    try:
        options = Options(**settle_rate(wanted))
        formats.check_options(options)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    ending = (
        "preview.mp4" if is_preview else options.suffix + formats.CONTAINERS[options.container].suffixes[0]
    )
    results = [target / f"{source.stem}-{ending}" if in_folder else target for source in sources]
    _check_results(results, is_preview, wanted["container"])
    if in_folder:
        _make_folder(target)
    for result in results:
        check_free(result, sources, overwrite, "OUT")
    click.echo(f"Looking into {sources[0].name}.", err=True)
    from worker.interpolation import Interpolation, make_all  # brings PyTorch, which takes seconds

    asked = [
        Interpolation(source, result, options, mask_path, overwrite, is_preview)
        for source, result in zip(sources, results, strict=True)
    ]
    if failed := make_all(asked, device, precision, profile):
        raise click.ClickException(f"{failed} of {len(asked)} videos could not be made.")


def _videos(words: tuple[str, ...]) -> tuple[list[Path], Path]:
    """The videos that the words but the last name, and OUT, which is the last; pictures in a folder become a file."""
    if len(words) < 2:
        raise click.UsageError("Name the videos, and then the file or folder that the result goes to.")
    try:
        found = clips_of(words[:-1], partial(click.echo, err=True))
        return [click.get_current_context().with_resource(archived(source)) for source in found], Path(
            words[-1]
        )
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint="IN") from None


def _make_folder(path: Path) -> None:
    """Make the folder of the results, unless it is there; its own folder must be."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        fault = f"{path} cannot be made a folder for the results: {error.strerror}"
        raise click.BadParameter(fault, param_hint="OUT") from None


def _check_results(results: list[Path], is_preview: bool, container: object) -> None:
    """Refuse results of another kind, and several of one name."""
    fault = ""
    if len(set(results)) < len(results):
        fault = (
            f"there are {len(results)} videos, and two of their results would be {max(results, key=results.count)}: "
            "name a folder, and videos of different names"
        )
    elif is_preview and results[0].suffix.lower() != ".mp4":
        fault = "a preview is an MP4: give it a name that ends in .mp4"
    elif container is None and not is_preview and formats.container_of(results[0].suffix) is None:
        fault = f"give the result a name that ends in {formats.endings()}, or say --container"
    if fault:
        raise click.BadParameter(fault, param_hint="OUT")
