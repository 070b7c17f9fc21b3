"""Records footage with true motion blur: matches between OpenArena's bots, played back at 500 frames a second.

    apt-get install openarena xvfb
    python -m dain_core.training.gather.games games --maps oa_dm1,delta,islanddm

The game draws every moment of the playback, however long that takes. A frame is the mean light of the moments during
which a shutter is open. Fast motion, things that enter the picture and things that cover others therefore look as in a
film, and the time of each frame is exact. A second of footage takes about twenty seconds of a core, and no GPU. The
data of the game are licensed under the GPL 2.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]

WIDTH, HEIGHT = 768, 432
TICKS = 40  # steps of the match in a second
RATE = 500  # moments in a second
SECONDS = 2.4  # length of a film
#: The possible shutters: the number of moments from one frame to the next, and of those with an open shutter.
SHUTTERS = ((16, 8), (16, 6), (8, 5), (8, 4))
#: The two views of a match: through the eyes of a player, and from behind or beside a player.
VIEWS = ("cg_thirdPerson 0", "cg_thirdPerson 1; set cg_thirdPersonRange 75; set cg_thirdPersonAngle {angle}")
MAPS = (
    "oa_dm1,oa_dm2,oa_dm5,oa_rpg3dm2,oa_shouse,kaos2,islanddm,oasago2,delta,ps37ctf,aggressor,hydronex,"
    "oa_dm3,oa_dm4,am_underworks2,czest1dm,sleekgrinder,oa_thor,slimefac,am_thornish,ctf_gate1,oa_bases7,"
    "oacmpdm3,oacmpdm8"
)
BOTS = ("sarge", "grism", "ayumi", "kyonshi", "tony", "merman")

#: Commands for the look: no text, no weapon before the camera, no blood, and the brightness of daylight.
LOOKS = """
set cg_draw2D 0; set cg_drawGun 0; set cg_drawFPS 0; set con_notifytime -1; set com_blood 0; set cg_gibs 0
set cg_fov 75; set r_picmip 0; set r_ext_compressed_textures 0
set r_mapOverBrightBits 3; set r_overBrightBits 0; set r_ignorehwgamma 1; set r_intensity 1.3
set com_maxfps 0; set r_swapInterval 0; set cl_aviMotionJpeg 1; set r_aviMotionJpegQuality 97
"""

_GAMMA, _LEVELS = 2.2, 4095
_LIGHT = np.round((np.arange(256) / 255) ** _GAMMA * _LEVELS).astype(np.uint16)
_PICTURE = np.round((np.arange(_LEVELS + 1) / _LEVELS) ** (1 / _GAMMA) * 255).astype(np.uint8)


@click.command()
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--maps", default=MAPS, show_default=True, help="Maps on which to play, one match on each.")
def main(out: Path, maps: str) -> None:
    """Record each match twice: through the eyes of a player, OUT/MAP_0.mp4, and from outside, OUT/MAP_1.mp4."""
    for program in ("openarena", "xvfb-run"):
        if not _program(program):
            raise click.ClickException(f"{program} is not installed: apt-get install openarena xvfb")
    out.mkdir(parents=True, exist_ok=True)
    for name in maps.split(","):
        draw = random.Random(name)
        with tempfile.TemporaryDirectory() as home:
            play(Path(home), match(name))
            if not (Path(home) / "baseoa/demos/match.dm_71").exists():
                raise click.ClickException(
                    f"no match was played on {name!r}: check that the game has this map"
                )
            for index, view in enumerate(VIEWS):
                play(Path(home), playback(view.format(angle=draw.randrange(360))))
                film = Path(home) / "baseoa/videos/film.avi"
                path = out / f"{name}_{index}.mp4"
                period, opened = draw.choice(SHUTTERS)
                count = write(path, Fraction(RATE, period), exposed(moments(film), period, opened))
                film.unlink()
                click.echo(f"{path}: {count} frames at {RATE / period:g} a second")


def match(name: str) -> str:
    """Return the commands of the game that record a match on map `name`, from a spectator who follows a player."""
    bots = "; ".join(f"addbot {bot} 4" for bot in BOTS)
    return f"""
set sv_pure 0; set sv_fps {TICKS}; set snaps {TICKS}; set rate 90000; set com_maxfps {TICKS}
set g_gametype 0; set fraglimit 0; set timelimit 0
map {name}; {wait(2, TICKS)}; team s; {bots}; {wait(3, TICKS)}; follownext; wait 5
record match; {wait(SECONDS + 1, TICKS)}; stoprecord; wait 5; quit
"""


def playback(view: str) -> str:
    """Return the commands of the game that make a film of the recorded match with `view`, one of `VIEWS`."""
    return f"set {view}\ndemo match; wait 10; video film; {wait(SECONDS, RATE)}; stopvideo; quit\n"


def wait(seconds: float, rate: int) -> str:
    """Return the command of the game that waits, at `rate` moments a second. The game counts two waits a moment."""
    return f"wait {round(2 * rate * seconds)}"


def play(home: Path, commands: str) -> None:
    """Run the game without a screen until its commands end.

    Args:
        home: the home folder of the game.
        commands: commands of the game, the last of which is `quit`.

    Raises:
        click.ClickException: the game failed; the message has the end of its log.
    """
    folder = home / "baseoa"
    folder.mkdir(exist_ok=True)
    (folder / "script.cfg").write_text(LOOKS + commands)
    settings = {
        "fs_homepath": home, "cl_renderer": "opengl1", "s_initsound": 0, "r_fullscreen": 0, "r_mode": -1,
        "r_customwidth": WIDTH, "r_customheight": HEIGHT, "cl_aviFrameRate": RATE, "com_introplayed": 1,
    }  # fmt: skip
    game = [_program("openarena"), *(text for pair in settings.items() for text in ("+set", *map(str, pair)))]
    screen = ["xvfb-run", "--auto-servernum", "--server-args", "-screen 0 1024x768x24"]
    log = home / "log"
    with log.open("w") as output:
        done = subprocess.run(
            [*screen, *map(str, game), "+exec", "script.cfg"],
            env={**os.environ, "HOME": str(home), "SDL_AUDIODRIVER": "dummy"},
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
    if done.returncode:
        raise click.ClickException(f"the game failed:\n{log.read_text(errors='replace')[-2000:]}")


def moments(path: Path) -> Iterator[Frame]:
    """Read the frames of a film, (H, W, 3) uint8 RGB each."""
    with av.open(str(path)) as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def exposed(moments: Iterable[Frame], period: int, opened: int) -> Iterator[Frame]:
    """Make one frame from every `period` moments: the mean light of the first `opened` of them."""
    light: NDArray[np.uint32] = np.zeros((), np.uint32)
    for index, moment in enumerate(moments):
        place = index % period
        if place < opened:
            light = _LIGHT[moment] + light if place else _LIGHT[moment].astype(np.uint32)
        if place == opened - 1:
            picture: Frame = _PICTURE[light // opened]
            yield picture


def write(path: Path, rate: Fraction, frames: Iterable[Frame]) -> int:
    """Write `frames` as H.264 with `rate` frames a second and no visible loss; return the number of frames."""
    count = 0
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=rate, options={"crf": "19", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            count += 1
        file.mux(stream.encode())
    return count


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/games")


if __name__ == "__main__":
    main()
