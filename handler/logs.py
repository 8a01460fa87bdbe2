"""The function's own log: JSON lines where a machine reads it, plain lines on a terminal. Not the request log."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from typing import Any, TextIO

import orjson

FIELDS = "fields"
"""Key of `extra` under which a log call passes its structured fields."""


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and the fields that the call passed."""

    def format(self, record: logging.LogRecord) -> str:
        """Encode the record."""
        entry: dict[str, Any] = {
            "time": dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= getattr(record, FIELDS, {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry, default=str).decode()
        except TypeError:  # a lone surrogate, which has no UTF-8 form, or an integer beyond 64 bits
            return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record."""
        time = dt.datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = getattr(record, FIELDS, {})
        shown = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        line = _printable(f"{time} {record.levelname.lower():7} {record.getMessage()} {shown}".rstrip())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _printable(text: str) -> str:
    """What a client wrote, its path for instance, must not play with the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send every logger of the process to `stream`, standard output by default."""
    stream = stream or sys.stdout
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
