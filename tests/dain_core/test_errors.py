"""The tree of exceptions that the docstring of `dain_core.errors` draws."""

import importlib
import re

import pytest

from dain_core import errors
from dain_core.errors import DainCoreError

#: Each line of the tree: its indentation, the name of the class, its module.
TREE = re.findall(r"^    ([│ ]*)[├└]── (\w+) +([\w.]+)", errors.__doc__ or "", re.MULTILINE)


def parents() -> list[tuple[str, str, str]]:
    """For each class of the tree its name, its module and the name of the class that it stands under."""
    found, path = [], ["DainCoreError"]
    for indentation, name, module in TREE:
        path[1 + len(indentation) // 4 :] = [name]
        found.append((name, module, path[-2]))
    return found


@pytest.mark.parametrize(("name", "module", "parent"), parents())
def test_an_exception_stands_where_the_tree_draws_it(name: str, module: str, parent: str) -> None:
    kind = getattr(importlib.import_module(module), name)
    assert issubclass(kind, DainCoreError)
    assert parent in [base.__name__ for base in kind.__bases__]


def test_the_tree_draws_every_exception_of_its_modules() -> None:
    drawn = {name for _, name, _ in TREE} | {"DainCoreError"}
    pending = [DainCoreError]
    while pending:
        kind = pending.pop()
        pending += [child for child in kind.__subclasses__() if child.__module__.startswith("dain_core")]
        assert kind.__name__ in drawn
