"""What can be measured: sizes and precisions. This module imports nothing heavy, so that help waits for no PyTorch."""

from __future__ import annotations

import re
from typing import Any

import click

#: "eager" is the plain network in float32, as PyTorch runs it; the others are the engine's.
PRECISIONS = ("eager", "fp32", "tf32", "fp16", "bf16", "fp8", "int8")
SIZES = {"480p": (480, 640), "720p": (720, 1280), "1080p": (1080, 1920), "4k": (2160, 3840)}
Picture = tuple[str, int, int]  # a size's name, height and width


class Size(click.ParamType):
    """A size on the command line: `720p`, or any WIDTHxHEIGHT."""

    name = "size"

    def convert(self, value: Any, param: Any, context: Any) -> Picture:
        if isinstance(value, tuple):
            return value
        if value in SIZES:
            return (value, *SIZES[value])
        if parts := re.fullmatch(r"(\d+)x(\d+)", value):
            return value, int(parts[2]), int(parts[1])
        self.fail(f"{value!r} is none of {', '.join(SIZES)}, and not WIDTHxHEIGHT", param, context)
