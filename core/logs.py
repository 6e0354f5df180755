"""The log: one record is one line of named values, and every line of a request carries the request's id.

A line is `key=value …`, or a JSON object with `LOG_FORMAT=json`. Whatever is not plain is quoted and escaped, line breaks too,
so that nobody can forge a line with what they send. What clients send is not logged at all: our own lines do not quote it,
libraries are heard from WARNING on, and of their lines, and of exceptions in the work for a request, what stands in quotes is
left out. It knows neither HTTP nor what the values mean.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

T = TypeVar("T")

OURS = {"__main__", "api", "app", "core", "imaging", "model_utility", "models"}  # packages and modules, each with its loggers
OURS |= {"outbound", "schemas", "serving", "storage", "upscale", "utility", "weights", "workers"}


class Values(dict[str, object]):
    """A log message of named values, in the order in which they are written."""

    def __str__(self) -> str:
        return " ".join(f"{name}={_as_text(value)}" for name, value in self.items())


@dataclass
class RequestNotes:
    """What is known of the request that is being served; whoever learns of something adds it to `values`."""

    request_id: str
    route: str = ""  # the rule that matched the path; empty while none has
    code: str = ""  # of the error that is the response
    values: dict[str, object] = field(default_factory=dict)  # for its line in the log


_notes: ContextVar[RequestNotes] = ContextVar("notes", default=RequestNotes(""))  # noqa: B039 - stands for "no request"


def begin_request(request_id: str) -> RequestNotes:
    """Let all that is logged from here on, in this context and those copied from it, belong to this request."""
    notes = RequestNotes(request_id)
    _notes.set(notes)
    return notes


def current_request() -> RequestNotes:
    """The request that this code is working for; one without an id where it works for none."""
    return _notes.get()


def in_this_context(function: Callable[[], T]) -> Callable[[], T]:
    """The function, to be called in a copy of this context: work for another thread goes on belonging to its request."""
    return partial(copy_context().run, function)


class LineFormatter(logging.Formatter):
    """A record as one line, with its traceback, if there is one, escaped in `exception`."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._render: Callable[[Values], str] = _as_json if as_json else str

    def format(self, record: logging.LogRecord) -> str:
        values = Values(time=timestamp(record.created), level=record.levelname)
        if request_id := current_request().request_id:  # records are formatted in the thread that made them
            values["request_id"] = request_id
        is_ours = record.name.partition(".")[0] in OURS
        if isinstance(record.msg, Values):
            values |= record.msg
        else:
            message = record.getMessage()
            values["message"] = message if is_ours else _without_quoted(message)
        if record.exc_info:
            exception = self.formatException(record.exc_info)
            values["exception"] = exception if is_ours and not request_id else _without_quoted(exception)
        return self._render(values)


def configure_logging(level: str, log_format: str) -> None:
    """Write to stderr from now on, `text` or `json`."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(as_json=log_format == "json"))
    logging.basicConfig(handlers=[handler])
    set_level(level)


def set_level(level: str) -> None:
    """Log what is at that level or above; of libraries, which write down headers, URLs and bodies, nothing below WARNING."""
    logging.getLogger().setLevel(level if level == "ERROR" else "WARNING")
    for name in OURS:
        logging.getLogger(name).setLevel(level)


def timestamp(epoch_seconds: float) -> str:
    """ISO 8601 in UTC, with milliseconds."""
    return datetime.fromtimestamp(epoch_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as_json(values: Values) -> str:
    return json.dumps(values, default=str)  # in ASCII, so without any other character that ends a line


def _as_text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())


def _without_quoted(text: str) -> str:
    """The text of an exception without the values that it quotes; the names of our files stay."""
    return _QUOTED.sub(lambda match: match[1] or "'…'", text)


_QUOTED = re.compile(r"""(File "[^"\n]*")|(?<!\w)b?(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*")""")
_PLAIN = re.compile(r"[\w.,:;/<>()+@%*-]+", re.ASCII)
