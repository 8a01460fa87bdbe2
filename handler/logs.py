"""The function's own log: JSON lines where a machine reads it, plain lines on a terminal. Not the request log."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, TextIO

import msgspec
import orjson

_encode_lines = msgspec.json.Encoder().encode_lines

FIELDS = "fields"
"""Key of `extra` under which a log call passes its structured fields."""
ENTRIES = "entries"
"""Key of `extra` under which a log call passes the fields of several lines."""


_NEAR_REQUESTS = frozenset(("handler.error_responses", "uvicorn.error", "asyncio"))
"""Loggers of what goes wrong beside a request: the words of an exception there may be those of a prompt."""


def log_entries(logger: logging.Logger, message: str, entries: Sequence[msgspec.Struct]) -> None:
    """A line at level info for each of `entries`, all in one record: what is logged with every request costs less."""
    logger.info(message, extra={ENTRIES: entries})


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields that the call passed."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._shown_second = ""

    def format(self, record: logging.LogRecord) -> str:
        """Encode the record; several lines where it has several entries."""
        head: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        entries: Sequence[msgspec.Struct] | None = getattr(record, ENTRIES, None)
        if entries is not None:
            return _joined(head, entries)
        exception = {"exception": _exception(record)} if record.exc_info else {}
        return _json({**head, **getattr(record, FIELDS, {}), **exception})

    def _time(self, created_s: float) -> str:
        """ISO 8601 in UTC, to the millisecond; what all lines of a second share is written once."""
        second, milliseconds = divmod(int(created_s * 1000), 1000)
        if second != self._second:
            self._second = second
            self._shown_second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._shown_second}.{milliseconds:03d}+00:00"


class TextFormatter(logging.Formatter):
    """A line for people: time, level, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record; several lines where it has several entries."""
        time = dt.datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        head = f"{time} {record.levelname.lower():7} {_message(record)}"
        entries: Sequence[msgspec.Struct] | None = getattr(record, ENTRIES, None)
        lines = []
        for fields in (getattr(record, FIELDS, {}),) if entries is None else map(msgspec.structs.asdict, entries):
            shown = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
            lines.append(_printable(f"{head} {shown}".rstrip()))
        if record.exc_info:
            # Behind a margin, so that no line of it can pass for a line of this log.
            lines += [f"  {_printable(line)}" for line in _exception(record).splitlines()]
        return "\n".join(lines)


def _message(record: logging.LogRecord) -> str:
    """Of asyncio the first line: the others show objects of requests."""
    message = record.getMessage()
    return message.partition("\n")[0] if record.name == "asyncio" else message


def _exception(record: logging.LogRecord) -> str:
    assert record.exc_info is not None
    kind, error, trace = record.exc_info
    if error is not None and record.name in _NEAR_REQUESTS:
        return _without_words(error)
    return "".join(traceback.format_exception(kind, error, trace)).rstrip()


def _without_words(error: BaseException) -> str:
    """Where it came from and what it is, and not what it says; the same of its causes."""
    parts = [f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__qualname__}"]
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    parts += [_without_words(other) for other in (before, *inner) if other is not None]
    return "\n\nfrom\n\n".join(parts)


def _joined(head: dict[str, Any], entries: Sequence[msgspec.Struct]) -> str:
    """A line for each entry, all with the same head; all are encoded at once, and no line's end stands within one."""
    before = orjson.dumps(head)[:-1] + b","
    lines = _encode_lines(entries)
    return (before + lines[1:-1].replace(b"\n{", b"\n" + before)).decode()


def _json(entry: dict[str, Any]) -> str:
    try:
        return orjson.dumps(entry, default=str).decode()
    except TypeError:  # a lone surrogate, which has no UTF-8 form, or an integer beyond 64 bits
        return json.dumps(entry, default=str)


def _printable(text: str) -> str:
    """What a client wrote, its path for instance, must not play with the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send every logger of the process to `stream`, standard output by default."""
    # No line shows where it was logged, nor by which thread: `logging` has these switches for who need not know.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
