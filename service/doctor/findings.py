"""What `dain doctor` finds: one sentence each, and what to do about it. The standard library is all that this needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

#: The checks of a module by the names of what they look at, which docs/doctor.md explains one by one.
Checks = Mapping[str, Callable[[], Iterable["Finding"]]]

INSTALL = "In the project's folder: `pip install --constraint constraints.txt '.[embedded]'`."


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"  # it works, but slower or with less than it could
    ERROR = "error"  # something does not work


class Finding(NamedTuple):
    """What was found of one thing.

    Attributes:
        check: what was looked at, a name that never changes its meaning.
        level: how bad it is.
        says: what is so, in a sentence.
        fix: what to do about it, in a sentence; "" where all is well.
    """

    check: str
    level: Level
    says: str
    fix: str = ""


def ok(check: str, says: str) -> Finding:
    return Finding(check, Level.OK, says)


def warning(check: str, says: str, fix: str) -> Finding:
    return Finding(check, Level.WARNING, says, fix)


def error(check: str, says: str, fix: str) -> Finding:
    return Finding(check, Level.ERROR, says, fix)


def examine(module: str) -> Iterator[Finding]:
    """The findings of the CHECKS of a module, one after the other; what cannot be checked is a finding, too."""
    part = module.rpartition(".")[2]
    try:
        checks: Checks = importlib.import_module(module).CHECKS
    except Exception as failure:
        yield _not_checked(part, failure)
        return
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as failure:
            yield _not_checked(name, failure)


def _not_checked(check: str, failure: Exception) -> Finding:
    if isinstance(failure, ModuleNotFoundError):
        return error(check, f"This was not checked: the package {failure.name} is not installed.", INSTALL)
    said = (str(failure).strip() or "no reason given").splitlines()[0]
    if isinstance(failure, ImportError):  # a library of another version; its text says what to do
        return error(
            check, f"This was not checked: {said}.", "Do what this says, or install the project again."
        )
    return error(
        check,
        f"This was not checked: {type(failure).__name__}: {said}.",
        "If the other findings do not explain it, this is a fault of `dain doctor`: report it with this sentence.",
    )
