"""Times of very many frames, in eight bytes each."""

from __future__ import annotations

import base64
import itertools
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Self, overload


class Moments(Sequence[Fraction]):
    """Times in seconds, as whole numbers of one unit, which is small enough for all of them.

    >>> Moments([Fraction(1, 2), Fraction(2, 3)])[1]
    Fraction(2, 3)
    """

    def __init__(self, moments: Iterable[Fraction] = ()) -> None:
        self.parts = 1  #: of a second, that the unit is
        self.ticks = array("q")
        self.extend(moments)

    @classmethod
    def of(cls, ticks: array[int], unit: Fraction) -> Self:
        """The times that are ``ticks`` of ``unit`` seconds."""
        moments = cls()
        moments.parts = unit.denominator
        moments.ticks = (
            ticks if unit.numerator == 1 else array("q", (tick * unit.numerator for tick in ticks))
        )
        return moments

    def append(self, moment: Fraction) -> None:
        """Add a time."""
        if self.parts % moment.denominator:
            finer = math.lcm(self.parts, moment.denominator)
            self.ticks, self.parts = self.in_parts(finer), finer
        self.ticks.append(moment.numerator * (self.parts // moment.denominator))

    def extend(self, moments: Iterable[Fraction]) -> None:
        """Add times."""
        if isinstance(moments, Moments) and (not self.ticks or moments.parts == self.parts):
            self.parts = moments.parts
            self.ticks.extend(moments.ticks)
        else:
            for moment in moments:
                self.append(moment)

    def in_parts(self, parts: int) -> array[int]:
        """The times in units of 1/``parts`` s, of which they must be whole numbers."""
        scale = parts // self.parts
        return self.ticks if scale == 1 else array("q", (tick * scale for tick in self.ticks))

    def __len__(self) -> int:
        return len(self.ticks)

    @overload
    def __getitem__(self, index: int) -> Fraction: ...
    @overload
    def __getitem__(self, index: slice) -> Moments: ...
    def __getitem__(self, index: int | slice) -> Fraction | Moments:
        if isinstance(index, slice):
            return Moments.of(self.ticks[index], Fraction(1, self.parts))
        return Fraction(self.ticks[index], self.parts)

    def __iter__(self) -> Iterator[Fraction]:
        return (Fraction(tick, self.parts) for tick in self.ticks)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Moments) and other.parts == self.parts:
            return self.ticks == other.ticks
        if not isinstance(other, Moments | list | tuple) or len(other) != len(self):
            return NotImplemented if not isinstance(other, Moments | list | tuple) else False
        return all(one == two for one, two in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return f"Moments({list(self)!r})"


def packed(numbers: array[int]) -> str:
    """Whole numbers that follow each other closely, as text: their differences, compressed.

    >>> unpacked(packed(array("q", [7, 9, 4])))
    array('q', [7, 9, 4])
    """
    steps = array(
        "q", (after - before for before, after in itertools.pairwise(itertools.chain([0], numbers)))
    )
    return base64.b64encode(zlib.compress(steps, level=1)).decode()


def unpacked(text: str) -> array[int]:
    """What `packed` was given."""
    steps = array("q", zlib.decompress(base64.b64decode(text)))
    return array("q", itertools.accumulate(steps))
