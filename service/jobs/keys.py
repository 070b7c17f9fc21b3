"""API keys: who a caller is, what the caller may do, and how much of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Scope(StrEnum):
    """What a key allows: `submit` and cancel jobs, `read` them and their results, see the service as its `admin`."""

    SUBMIT = "submit"
    READ = "read"
    ADMIN = "admin"


class Key(BaseModel):
    """A key on record. `owner` is the name that its jobs belong to; an owner may have several keys."""

    model_config = ConfigDict(frozen=True, extra="allow")  # a later version's fields are kept

    id: str
    owner: str
    scopes: frozenset[Scope]
