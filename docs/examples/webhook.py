"""Fetches each result as soon as it is there: uvicorn webhook:app --port 9000, with the settings that it reads below.

Jobs name it as `webhook_url`; the service lets messages go there by DAIN_EGRESS_ALLOW, where it is no public host.
"""

import os
from contextlib import suppress
from pathlib import Path

from dain_client import AsyncClient
from fastapi import BackgroundTasks, FastAPI, Request, Response
from standardwebhooks import Webhook, WebhookVerificationError

app = FastAPI()


@app.post("/dain")
async def receive(request: Request, later: BackgroundTasks) -> Response:
    try:
        webhook = Webhook(os.environ["DAIN_WEBHOOK_SECRET"])
        message = webhook.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError:
        return Response("This is not from DAIN, or a clock is wrong.", status_code=401)
    if message["type"] == "job.succeeded":
        later.add_task(fetch, message["data"]["id"])  # after the answer, which is to come within 15 s
    return Response(status_code=204)


async def fetch(job_id: str) -> None:
    async with AsyncClient(os.environ["DAIN_URL"]) as client:
        with suppress(FileExistsError):  # a message may come twice
            await client.download(job_id, Path(os.environ["RESULTS"]) / f"{job_id}.mp4")
