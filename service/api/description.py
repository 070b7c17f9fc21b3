"""The OpenAPI description of the API: what the framework finds in the routes, and what it cannot know.

Clients are generated from it; see `tests/service/test_generated.py`.
"""

from __future__ import annotations

from typing import Any

from service.api.examples import ANSWERS, EXAMPLES
from service.api.options import RequestedHandling, RequestedOptions
from service.api.problems import ANYWHERE, KEYED, ProblemDocument, documented
from service.jobs.formats import CONTAINERS

Schema = dict[str, Any]

HEADERS: dict[str, tuple[str, Schema]] = {
    "Location": ("Where the job, the upload or the file is.", {"type": "string"}),
    "Retry-After": ("Seconds after which to ask again.", {"type": "integer"}),
    "ETag": ("Names this content: If-None-Match with it is answered 304.", {"type": "string"}),
    "RateLimit": ("What is left of the key's rate or quota.", {"type": "string"}),
    "RateLimit-Policy": ("The key's rate or quota.", {"type": "string"}),
    "Tus-Resumable": ("The version of tus, the protocol of resumable uploads.", {"type": "string"}),
    "Tus-Version": ("The versions of tus that there are.", {"type": "string"}),
    "Tus-Extension": ("The extensions of tus that there are.", {"type": "string"}),
    "Tus-Max-Size": ("The most bytes of an upload.", {"type": "integer"}),
    "Tus-Checksum-Algorithm": ("The checksums that a piece may have.", {"type": "string"}),
    "Upload-Offset": ("How many bytes have arrived.", {"type": "integer"}),
    "Upload-Length": ("How many bytes the upload has.", {"type": "integer"}),
    "Upload-Expires": ("When the upload is forgotten.", {"type": "string"}),
}
LATER = frozenset({"409", "429", "503", "507"})  # problems that pass


def headers(*names: str) -> dict[str, Any]:
    """The part of a response's description that names its headers."""
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}}


def complete(document: Schema) -> Schema:
    """Adds to the framework's description the problems of every route, and the components that routes refer to."""
    document["servers"] = [{"url": "/", "description": "the service that answers"}]
    components = document["components"]
    for schema in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(schema, None)
    components["schemas"] |= {"ProblemDocument": ProblemDocument.model_json_schema(), **SUBMISSIONS}
    components["headers"] = {
        name: {"description": description, "schema": schema}
        for name, (description, schema) in HEADERS.items()
    }
    for name, example in EXAMPLES.items():
        components["schemas"][name]["examples"] = [example]
    for path, calls in document["paths"].items():
        for call in calls.values():
            _complete_call(call)
        if path in ANSWERS:
            calls["get"]["responses"]["200"]["content"]["application/json"]["example"] = ANSWERS[path]
    return document


def _complete_call(call: Schema) -> None:
    responses = call["responses"]
    if "422" in responses and "application/json" in responses["422"].get("content", {}):
        del responses["422"]  # the framework's own errors are problems here
    checked = any(parameter["in"] in ("query", "header") for parameter in call.get("parameters", ()))
    slugs = (*ANYWHERE, *(KEYED if "security" in call else ()), *(("invalid-request",) if checked else ()))
    for status, added in documented(*slugs).items():
        response = responses.setdefault(str(status), added)
        [present], [further] = response["content"].values(), added["content"].values()
        present["examples"] = further["examples"] | present["examples"]
    for status, response in responses.items():
        if status >= "400":
            [content] = response["content"].values()
            response["description"] = "; ".join(
                example["summary"] for example in content["examples"].values()
            )
            named = ["Retry-After"] * (status in LATER) + ["RateLimit", "RateLimit-Policy"] * (
                status == "429"
            )
            response |= headers(*named) if named else {}
    call["responses"] = dict(sorted(responses.items()))


def _options() -> Schema:
    """The options of a job as fields of a form or a query. None has a default: a client would send it."""
    described: Schema = {}
    for model in (RequestedOptions, RequestedHandling):
        for name, field in model.model_json_schema()["properties"].items():
            kinds = [kind for kind in field.pop("anyOf", [{}]) if kind.get("type") != "null"]
            default = field.pop("default", None)
            text = (
                field["description"] if default is None else f"{field['description']} {default} unless given."
            )
            described[name] = field | kinds[0] | {"description": text}
    listed = described["webhook_events"]
    described["webhook_events"] = {
        "type": "string",
        "title": listed["title"],
        "description": listed["description"],
    }
    return described


_VIDEO = {"type": "string", "format": "binary"}
#: A result, of any container. A client that is generated knows no videos, but bytes.
FILE = {
    kind: {"schema": _VIDEO}
    for kind in ("application/octet-stream", *(each.media_type for each in CONTAINERS.values()))
}
PARTS: Schema = {
    "parameters": [
        {
            "name": name,
            "in": "header",
            "description": description,
            "schema": {"type": "string"},
            "example": example,
        }
        for name, description, example in (
            ("Range", "The bytes that are wanted.", "bytes=0-499"),
            (
                "If-Range",
                "ETag of the file that these bytes are to be of; else it comes whole.",
                '"9f86d081"',
            ),
            ("If-None-Match", "ETag of the file that is there already; 304 where that holds.", '"9f86d081"'),
        )
    ]
}
#: Headers of the requests of a resumable upload.
TUS_HEADERS = {
    "Tus-Resumable": ("The version of tus.", "1.0.0"),
    "Upload-Length": ("How many bytes the upload will have.", "104857600"),
    "Upload-Metadata": ("`filename`, a space, and the video's name in base64.", "filename Y2xpcC5tcDQ="),
    "Upload-Offset": ("How many bytes have arrived before this piece.", "16777216"),
    "Upload-Checksum": (
        "An algorithm, a space, and the piece's digest in base64. With it the piece is kept whole or not at all.",
        "sha256 n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
    ),
}


def tus(*names: str) -> Schema:
    """The part of a call's description that names its headers beside `Tus-Resumable`."""
    return {
        "parameters": [
            {
                "name": name,
                "in": "header",
                "description": TUS_HEADERS[name][0],
                "schema": {"type": "string"},
                "example": TUS_HEADERS[name][1],
            }
            for name in ("Tus-Resumable", *names)
        ]
    }


_SOURCE_URL = {
    "type": "string",
    "format": "uri",
    "description": "Where the service fetches the video, in place of `file`: an https:// URL of a public host.",
}
_METADATA = {"type": "object", "additionalProperties": {"type": "string"}}

SUBMISSIONS: Schema = {
    "Submission": {
        "type": "object",
        "description": "A form with a video, or with the URL of one, and the options of the job.",
        "additionalProperties": False,
        "properties": {
            "file": _VIDEO | {"description": "The video."},
            "mask": _VIDEO
            | {
                "description": "A PNG of the video's shape, up to 512 KiB: what is white there stands still in it, "
                "such as text and logos."
            },
            "source_url": _SOURCE_URL,
            **_options(),
        },
    },
    "SubmissionByURL": {
        "type": "object",
        "description": "The URL of a video, and the options of the job.",
        "required": ["source_url"],
        "additionalProperties": False,
        "properties": {
            "source_url": _SOURCE_URL,
            **_options(),
            "metadata": _METADATA | {"description": _options()["metadata"]["description"]},
        },
    },
}

#: The options of a job as parameters of a query.
QUERY = [
    {"name": name, "in": "query", "description": schema["description"], "schema": schema}
    for name, schema in _options().items()
]

#: POST /uploads.
UPLOAD: Schema = {
    "parameters": [
        *tus("Upload-Length", "Upload-Metadata")["parameters"],
        {
            "name": "filename",
            "in": "query",
            "description": "The name of the video, in place of that in Upload-Metadata.",
            "schema": {"type": "string"},
        },
        *QUERY,
    ]
}

#: POST /jobs and POST /jobs/estimate. They read the body as a stream, so the framework cannot describe it.
SUBMISSION: Schema = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": 'Makes it safe to send the request again, for 24 hours. A quoted string: "3f1c9a".',
            "schema": {"type": "string"},
            "example": '"3f1c9a"',
        },
        {
            "name": "Content-Disposition",
            "in": "header",
            "description": "The name of the video, where the body is the video itself.",
            "schema": {"type": "string"},
            "example": 'attachment; filename="clip.mp4"',
        },
        {
            "name": "filename",
            "in": "query",
            "description": "The name of the video, in place of the header Content-Disposition.",
            "schema": {"type": "string"},
        },
        {
            "name": "upload",
            "in": "query",
            "description": "The id of a video that was sent by POST /uploads, in place of one in the body.",
            "schema": {"type": "string"},
        },
        *QUERY,
    ],
    "requestBody": {
        "required": False,
        "description": "A form with the video in `file`, or the video itself with the options in the query, also as "
        "`video/*`, `image/*` or `application/zip`, or JSON with the URL of a video in `source_url`. "
        "Wanted unless `upload` is given.",
        "content": {
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/Submission"}},
            "application/json": {
                "schema": {"$ref": "#/components/schemas/SubmissionByURL"},
                "example": {"source_url": "https://example.com/clip.mp4", "target_fps": "60"},
            },
            "application/octet-stream": {"schema": _VIDEO},
        },
    },
}
