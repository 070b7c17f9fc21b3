"""The root of every exception that the service and its workers define.

    DainError
    ├── Problem            service.jobs.problems   the caller can act on it; it becomes a problem document
    ├── Refused            service.jobs.machine    a task is not handed out to the worker that asks for it
    ├── EgressRefused      service.egress          a request to a place that a caller named is not made
    ├── UnreadableRecord   service.jobs.records    Redis holds a job that this version cannot read
    ├── StoreDamaged       service.store           a stored file is not what was put there
    │   └── StoreMissing   service.store           a stored file is gone
    ├── StoreUnavailable   service.store           the store does not answer, or refuses
    └── MediaError         worker.media.errors     a video cannot be read or written
        └── MachineError   worker.media.errors     the machine is at fault, not the video

Catch `DainError` for all of them. An exception that none of these covers is a fault of the program.
"""

from __future__ import annotations


class DainError(Exception):
    """An error that this project names; its text is a sentence for people."""
