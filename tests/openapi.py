"""Prints the OpenAPI description of the API, of which types and documents are made: `python -m tests.openapi`."""

from __future__ import annotations

import json

from service.api.app import create_app
from service.settings import Settings

if __name__ == "__main__":
    print(json.dumps(create_app(Settings(redis_url="unix:///nowhere")).openapi()))
