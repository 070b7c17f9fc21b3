"""The OpenAPI description says what the service does."""

from __future__ import annotations

from typing import Any

import pytest

from service.api.app import create_app
from service.api.description import HEADERS
from service.api.examples import EXAMPLES
from service.api.options import RequestedHandling, RequestedOptions
from service.api.problems import MEDIA_TYPE
from service.api.routes.estimate import Estimate
from service.api.routes.jobs import DeliveryLog, Page
from service.api.routes.results import Frames
from service.api.routes.uploads import UploadLink
from service.api.views import JobView
from service.jobs.formats import CONTAINERS
from service.jobs.problems import PROBLEMS
from service.jobs.workers import WorkerRecord
from service.settings import Settings

Schema = dict[str, Any]

#: Problems that a job carries, and no answer; and what is answered outside of any route.
OF_A_JOB = {"encode-failed", "model-failed", "too-many-attempts", "unreadable-record", "stored-file-damaged"}
OF_NO_ROUTE = {"headers-too-large"}


@pytest.fixture
def document(settings: Settings) -> Schema:
    return create_app(settings).openapi()


def calls(document: Schema) -> dict[str, Schema]:
    return {
        f"{method.upper()} {path}": call
        for path, methods in document["paths"].items()
        for method, call in methods.items()
    }


def problems(call: Schema) -> dict[str, str]:
    """Slug and status of each problem that a call may answer."""
    return {
        slug: status
        for status, response in call["responses"].items()
        if status >= "400"
        for slug in response["content"][MEDIA_TYPE]["examples"]
    }


def test_every_error_of_every_call_is_a_problem_of_the_table(document: Schema) -> None:
    named: set[str] = set()
    for name, call in calls(document).items():
        for status, response in call["responses"].items():
            if status >= "400":
                assert list(response["content"]) == [MEDIA_TYPE], (name, status)
                content = response["content"][MEDIA_TYPE]
                assert content["schema"] == {"$ref": "#/components/schemas/ProblemDocument"}
                for slug, example in content["examples"].items():
                    assert example["value"]["type"] == f"urn:dain:problem:{slug}"
                    assert str(example["value"]["status"]) == status == str(PROBLEMS[slug][0])
                    assert example["summary"] in response["description"]
        named |= problems(call).keys()
        assert {"unknown-host", "cross-site-request", "internal-error"} <= problems(call).keys(), name
        keyed = {"unauthorized", "forbidden", "rate-limited", "keys-unreadable"} <= problems(call).keys()
        assert keyed == ("security" in call), name
    assert named == PROBLEMS.keys() - OF_A_JOB - OF_NO_ROUTE


def test_what_it_refers_to_is_there(document: Schema) -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [found for value in part.values() for found in references(value)]
        return [found for value in part for found in references(value)] if isinstance(part, list) else []

    found = set(references(document))
    assert found
    for reference in found:
        part = document
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    used = {reference.rpartition("/")[2] for reference in found if "/headers/" in reference}
    assert used == HEADERS.keys()


def test_the_forms_and_the_query_take_every_option_and_send_no_default(document: Schema) -> None:
    options = {*RequestedOptions.model_fields, *RequestedHandling.model_fields}
    for name in ("POST /uploads", "POST /jobs", "POST /jobs/estimate"):
        call = calls(document)[name]
        assert options <= {parameter["name"] for parameter in call["parameters"]}
        if name == "POST /uploads":
            continue
        content = call["requestBody"]["content"]
        for kind, schema in (("multipart/form-data", "Submission"), ("application/json", "SubmissionByURL")):
            assert content[kind]["schema"] == {"$ref": f"#/components/schemas/{schema}"}
            fields = document["components"]["schemas"][schema]["properties"]
            assert options <= fields.keys()
            assert not [field for field in fields.values() if "default" in field]


def test_a_result_may_be_of_every_container(document: Schema) -> None:
    for status in ("200", "206"):
        content = calls(document)["GET /jobs/{job_id}/result"]["responses"][status]["content"]
        assert content.keys() == {each.media_type for each in CONTAINERS.values()} | {
            "application/octet-stream"
        }


def test_every_document_has_an_example_that_is_one(document: Schema) -> None:
    """And the examples are of documents that calls answer with."""
    models = (JobView, Page, Estimate, UploadLink, DeliveryLog, Frames, WorkerRecord)
    assert {model.__name__ for model in models} == EXAMPLES.keys()
    for model in models:
        example = EXAMPLES[model.__name__]
        filled = {**example, "source": ""} if model is JobView else example
        if model is Page:
            filled = {**example, "jobs": [{**job, "source": ""} for job in example["jobs"]]}
        assert document["components"]["schemas"][model.__name__]["examples"] == [example]
        assert contained(example, model.model_validate(filled).model_dump(mode="json")), model
    for name, call in calls(document).items():
        for status, response in call["responses"].items():
            content = response.get("content", {}).get("application/json", {})
            schema = content.get("schema", {})
            reference = schema.get("$ref") or schema.get("items", {}).get("$ref", "")
            if schema and status < "400":
                assert reference.rpartition("/")[2] in EXAMPLES or content.get("example"), name


def test_the_description_says_where_the_service_is_and_what_tus_wants(document: Schema) -> None:
    assert document["servers"] == [{"url": "/", "description": "the service that answers"}]
    piece = calls(document)["PATCH /uploads/{upload_id}"]
    assert {"Tus-Resumable", "Upload-Offset"} <= {each["name"] for each in piece["parameters"]}
    assert "Upload-Offset" in piece["responses"]["204"]["headers"]


def contained(part: Any, whole: Any) -> bool:
    if isinstance(part, dict):
        return all(name in whole and contained(value, whole[name]) for name, value in part.items())
    if isinstance(part, list):
        return len(part) == len(whole) and all(map(contained, part, whole))
    return bool(part == whole)
