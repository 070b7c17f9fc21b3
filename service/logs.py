"""How every process of the service logs: one line an event, on standard error.

On a terminal a line is for people, anywhere else it is a JSON object (`DAIN_LOG_FORMAT`). Lines of libraries have the
same form, and no line has a secret: the query of a URL may be one (the signature of a presigned URL, the token of a
webhook), as may what stands before its host. docs/observability.md lists the events.

    log = get_logger("dain.worker")
    log.info("job begun", job=job.id, owner=job.owner)

What is bound with `bound` stands in each line of the same context, those of libraries included.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys

import structlog
from structlog.contextvars import bound_contextvars as bound
from structlog.contextvars import merge_contextvars
from structlog.typing import EventDict, Processor, WrappedLogger

from service import traces
from service.settings import Settings, unknown_settings

__all__ = ["bound", "get_logger", "in_words", "log_to_stderr", "request_id"]

_FIRST = ("timestamp", "level", "logger", "event", "job", "task")
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(\w://)[^\s/?#'\"]*@"), r"\1***@"),  # user and password of a URL
    (re.compile(r"(/[^\s?#'\"]*)\?[^\s'\"]+"), r"\1?***"),  # the query of a URL, or of its path alone
    (re.compile(r"\b(whsec_|dain_)[A-Za-z0-9_+/=-]{20,}"), r"\1***"),  # secrets of webhooks, tokens of keys
)


def hide(text: str) -> str:
    """`text` without what in it looks like a secret."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def hide_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hides what looks like a secret in each text of a line."""
    return {name: hide(value) if isinstance(value, str) else value for name, value in event.items()}


def add_trace(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Adds the id of the trace that is open, where there is one."""
    event.setdefault("trace_id", traces.trace_id())
    return event


def tidy(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Puts what every line has first, and leaves out the fields of which nothing is known."""
    first = {name: event.pop(name, None) for name in _FIRST}
    return {name: value for name, value in (first | dict(event)).items() if value is not None}


#: What is done to each line, be it ours or a library's, before it is rendered.
_SHARED: list[Processor] = [
    merge_contextvars,
    add_trace,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
    tidy,
    hide_secrets,
]

# Without this, what logs before `log_to_stderr`, or without it as tests do, would be printed to standard output.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        *_SHARED,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    wrapper_class=structlog.stdlib.BoundLogger,
    logger_factory=structlog.stdlib.LoggerFactory(),
)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger called `name`, whose lines have fields."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def request_id() -> str | None:
    """The id of the request that is being answered; None outside of any."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found


def in_words(line: str) -> str:
    """A line of a log for people: of a JSON object its event, and its error where it has one."""
    try:
        fields = json.loads(line)
        words = [fields["event"], fields.get("error"), fields.get("exception", "").rpartition("\n")[2]]
    except (ValueError, TypeError, LookupError):
        return line.strip()
    return ": ".join(filter(None, words))


def log_to_stderr(settings: Settings) -> None:
    """Logs from `settings.log_level` on, and names the variables of the environment that look like settings of ours."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(settings.log_format))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs whole URLs
    logging.getLogger("rq.worker").setLevel(max(logging.WARNING, logging.root.level))  # five lines a task
    for sentence in unknown_settings(os.environ):
        logging.getLogger("dain.settings").warning(sentence)


def _formatter(form: str) -> logging.Formatter:
    is_terminal = sys.stderr.isatty()
    colours = is_terminal and not os.environ.get("NO_COLOR")
    render: Processor = structlog.processors.JSONRenderer(ensure_ascii=False)
    if form == "console" or (form == "auto" and is_terminal):
        render = structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0, sort_keys=False)
    meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=_SHARED, processors=[meta, render])
