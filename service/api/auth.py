"""Who sends a request, and what a route asks of whoever calls it.

A route names the scope that it needs by the type of an argument: `ReaderDep`, `SubmitterDep` or `AdminDep`. It passes
`caller.owner` on to whatever it reads or changes: the jobs of other owners do not exist for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Security
from fastapi.security import SecurityScopes

from service.jobs.keys import Key, Scope
from service.jobs.records import DEFAULT_OWNER


@dataclass(frozen=True)
class Caller:
    """Who sends a request. `owner` is the name that the jobs of the caller belong to."""

    owner: str
    scopes: frozenset[Scope]
    key: Key | None = None


#: Whoever calls a service that has no keys.
ANYBODY = Caller(DEFAULT_OWNER, frozenset(Scope))


def get_caller(required: SecurityScopes) -> Caller:
    """The caller of the present request, who has the `required` scopes."""
    return ANYBODY


#: For what other dependencies need of the caller: the route that uses them names the scope.
CallerDep = Annotated[Caller, Security(get_caller)]
ReaderDep = Annotated[Caller, Security(get_caller, scopes=[Scope.READ])]
SubmitterDep = Annotated[Caller, Security(get_caller, scopes=[Scope.SUBMIT])]
AdminDep = Annotated[Caller, Security(get_caller, scopes=[Scope.ADMIN])]
