"""Which webhook a job gets, and whether the service would send to it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import httpx

from service.api.auth import Caller
from service.api.options import WEBHOOK_EVENTS, webhook_refused
from service.egress import Egress, EgressRefused, parse_url
from service.jobs.options import Handling
from service.jobs.problems import Problem
from service.settings import Settings

log = logging.getLogger(__name__)


async def settle(handling: Handling, caller: Caller, settings: Settings, egress: Egress) -> Handling:
    """`handling` with the webhook of the request, or else of the caller's key; all events where none are named.

    Raises Problem 422 where nothing would be sent.
    """
    url = handling.webhook_url or (caller.key.webhook_url if caller.key else None)
    if url is None:
        if handling.webhook_events:
            raise Problem(
                "invalid-option",
                "webhook_events were given and there is no webhook to get them: give webhook_url.",
            )
        return handling
    await check(url, settings, egress, webhook_refused if handling.webhook_url else key_refused)
    events = handling.webhook_events or list(WEBHOOK_EVENTS)
    return handling.model_copy(update={"webhook_url": url, "webhook_events": events})


async def check(
    url: str,
    settings: Settings,
    egress: Egress,
    refused: Callable[[EgressRefused], Problem] = webhook_refused,
) -> None:
    """Raises Problem 422, which `refused` makes, where nothing would be sent to `url`."""
    try:
        if not settings.webhook_secret:
            raise EgressRefused(
                "This service sends no webhooks, since its operator has not set DAIN_WEBHOOK_SECRET."
            )
        await egress.addresses(parse_url(url))
    except EgressRefused as error:
        raise refused(error) from None
    except httpx.TransportError as error:  # it may be there when there is something to send
        log.info("the host of a webhook: %s", error)


def key_refused(error: EgressRefused) -> Problem:
    """Problem 422 for a caller who gave no webhook. The URL, which the operator gave, may hold a secret."""
    return Problem(
        "webhook-refused",
        f"The webhook of your key, for jobs without a webhook_url, is not accepted: {error} Tell whoever runs the "
        "service, who set it by `dain keys add --webhook-url` and can give you a key without it.",
    )
