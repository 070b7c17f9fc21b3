"""The OpenAPI description of POST /jobs. The route reads its body as a stream, so the framework cannot describe it."""

from __future__ import annotations

from typing import Any

from service.api.options import RequestedHandling, RequestedOptions


def _options() -> dict[str, Any]:
    asked = (RequestedOptions, RequestedHandling)
    return {
        name: schema for model in asked for name, schema in model.model_json_schema()["properties"].items()
    }


_VIDEO = {"type": "string", "format": "binary"}
_SOURCE_URL = {
    "type": "string",
    "format": "uri",
    "description": "Where the service fetches the video, in place of `file`: an https:// URL of a public host.",
}

SUBMISSION: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": 'Makes it safe to send the request again, for 24 hours. A quoted string: "3f1c9a".',
            "schema": {"type": "string"},
        },
        {
            "name": "Content-Disposition",
            "in": "header",
            "description": "The name of the video, where the body is the video itself.",
            "schema": {"type": "string"},
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
            "description": "The id of a video that was sent by POST /uploads, in place of a body.",
            "schema": {"type": "string"},
        },
        *(
            {"name": name, "in": "query", "description": schema.get("description", ""), "schema": schema}
            for name, schema in _options().items()
        ),
    ],
    "requestBody": {
        "required": False,
        "description": "A form with the video in `file`, or the video itself with the options in the query, or JSON "
        "with the URL of a video in `source_url`. Wanted unless `upload` is given.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "file": _VIDEO | {"description": "The video."},
                        "source_url": _SOURCE_URL,
                        **_options(),
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["source_url"],
                    "additionalProperties": False,
                    "properties": {"source_url": _SOURCE_URL, **_options()},
                }
            },
            "video/*": {"schema": _VIDEO},
            "application/octet-stream": {"schema": _VIDEO},
        },
    },
}
