"""What the service answers is read whole, from older and from newer services."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from pydantic import BaseModel

from service.api.examples import JOB as EXAMPLE
from service.api.options import RequestedHandling, RequestedOptions
from service.api.routes.estimate import Estimate as ServedEstimate
from service.api.routes.results import Frames as ServedFrames
from service.api.views import JobView, ResultView
from service.client import Estimate, Frames, Job, Options, Output, Progress, Worker
from service.client.results import Note, Result
from service.jobs import notes, records
from service.jobs.workers import WorkerRecord


def test_a_job_of_today() -> None:
    job = Job.of({**EXAMPLE, "notes": [{"code": "pixels-padded", "text": "Even."}], "later": 1})
    assert (job.id, job.status, job.is_over) == (EXAMPLE["id"], "running", False)
    assert (job.progress.frames_total, job.progress.eta_seconds, job.output) == (600, 18.75, None)
    assert job.notes == (Note(code="pixels-padded", text="Even."),)
    assert job.document["later"] == 1 and "later" not in repr(job)


def test_a_job_of_release_0_1_0() -> None:
    job = Job.of({"id": "a", "status": "queued", "notes": ["The sound was left out."]})
    assert (job.progress, job.output, job.notes[0].text) == (Progress(), None, "The sound was left out.")


def test_options_are_those_of_the_service() -> None:
    served = RequestedOptions.model_fields.keys() | RequestedHandling.model_fields.keys()
    assert Options.__optional_keys__ == served


@pytest.mark.parametrize(
    ("mine", "served"),
    [
        (Job, JobView),
        (Output, ResultView),
        (Progress, records.Progress),
        (Estimate, ServedEstimate),
        (Worker, WorkerRecord),
        (Frames, ServedFrames),
    ],
)
def test_fields_have_the_names_that_the_service_uses(mine: type[Result], served: type[BaseModel]) -> None:
    assert names(mine) - {"document"} <= served.model_fields.keys()


def test_fields_of_a_note_have_the_names_that_the_service_uses() -> None:
    assert names(Note) - {"document"} <= names(notes.Note)


def names(record: type[Any]) -> set[str]:
    return {each.name for each in fields(record)}
