"""`dain interpolate`: one video on this machine, without a service.

Only its options are here, so that whoever asks for help or mistypes one does not wait for PyTorch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from dain_core.outputs import OutputFile
from service.jobs import formats
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
@click.argument("source", metavar="IN", type=click.Path(exists=True, path_type=Path))
@click.argument("result", metavar="OUT", type=OutputFile())
@click.option("--overwrite", is_flag=True, help="Replace OUT if there is such a file.")
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
    source: Path,
    result: Path,
    overwrite: bool,
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
    """Make the video IN smoother, or slower, and write it to OUT, whose name says what kind of file it is.

    OUT ends in .mp4, .mkv, .mov, .webm, .gif, .apng, .webp or .zip (of pictures). IN is never changed. OUT appears
    when it is whole.
    """
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
    wanted["container"] = delivered["container"] or formats.container_of(result.suffix)
    if no_audio:
        wanted["audio"] = "none"
    _check_result(source, result, overwrite, wanted["container"])
    try:
        source = click.get_current_context().with_resource(archived(source))
        options = Options(**settle_rate(wanted))
        formats.check_options(options)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Looking into {source.name}.", err=True)
    from worker.interpolation import Interpolation  # brings PyTorch, which takes seconds

    Interpolation(source, result, options, mask_path, overwrite).run(device, precision, profile)


def _check_result(source: Path, result: Path, overwrite: bool, container: object) -> None:
    """Refuse an OUT of another kind, and one whose writing would lose a file."""
    if container is None:
        suffixes = dict.fromkeys(suffix for kind in formats.CONTAINERS.values() for suffix in kind.suffixes)
        what = f"give the result a name that ends in {formats.listed(list(suffixes))}, or say --container"
        raise click.BadParameter(what, param_hint="OUT")
    if not os.access(result.parent, os.W_OK):
        what = f"{result.parent} cannot be written to: name a folder that can"
        raise click.BadParameter(what, param_hint="OUT")
    if not os.path.lexists(result):
        return
    if result.exists() and result.samefile(source):
        what = f"{result} is the video itself, which is never replaced: give the result another name"
        raise click.BadParameter(what, param_hint="OUT")
    if not overwrite:
        what = f"there is a file {result} already: give the result another name, or say --overwrite"
        raise click.BadParameter(what, param_hint="OUT")
