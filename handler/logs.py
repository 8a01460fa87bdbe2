"""The function's own log: JSON lines where a machine reads it, plain lines on a terminal. Not the request log."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import sys
import time
from typing import Any, TextIO

import orjson

FIELDS = "fields"
"""Key of `extra` under which a log call passes its structured fields."""


_BLANK: dict[str, Any] = vars(logging.LogRecord("", logging.INFO, "", 0, "", (), None))


class FieldsRecord(logging.LogRecord):
    """A record that was made without looking at call stack, thread and process, which is most of the work."""

    def __init__(self, name: str, message: str, fields: dict[str, Any]) -> None:
        created_s = time.time()
        known = self.__dict__ = _BLANK.copy()
        known["name"] = name
        known["msg"] = message
        known["created"] = created_s
        known["msecs"] = created_s % 1.0 * 1000.0
        known[FIELDS] = fields


def log_fields(logger: logging.Logger, message: str, fields: dict[str, Any]) -> None:
    """`logger.info` with fields and nothing else, for what is logged with every request. On the event loop."""
    if logger.isEnabledFor(logging.INFO):
        logger.handle(FieldsRecord(logger.name, message, fields))


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and the fields that the call passed."""

    def __init__(self) -> None:
        super().__init__()
        self._second = -1
        self._shown_second = ""

    def format(self, record: logging.LogRecord) -> str:
        """Encode the record."""
        entry: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry, default=str).decode()
        except TypeError:  # a lone surrogate, which has no UTF-8 form, or an integer beyond 64 bits
            return json.dumps(entry, default=str)

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
        """Format the record."""
        time = dt.datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        fields = getattr(record, FIELDS, {})
        shown = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
        line = _printable(f"{time} {record.levelname.lower():7} {record.getMessage()} {shown}".rstrip())
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _printable(text: str) -> str:
    """What a client wrote, its path for instance, must not play with the terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines whole and in order; those that `log_fields` makes while the event loop turns once go out together.

    Whatever else is logged goes out at once, with what waits before it. What waits at the end is written by `flush`,
    which `logging` calls at exit.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._waiting: list[str] = []

    def handle(self, record: logging.LogRecord) -> bool:
        """Write one line, or let it wait for the loop's next turn."""
        assert self.lock is not None
        try:
            line = f"{self.format(record)}\n"
            with self.lock:
                self._waiting.append(line)
                if isinstance(record, FieldsRecord) and (len(self._waiting) > 1 or self._flush_soon()):
                    return True
                self._write()
        except Exception:  # noqa: BLE001  (as the standard handler does it: a log that fails must not end what it tells of)
            self.handleError(record)
        return True

    def flush(self) -> None:
        """Write what waits."""
        assert self.lock is not None
        with self.lock:
            self._write()

    def _flush_soon(self) -> bool:
        """Whether there is a loop to do it."""
        try:
            asyncio.get_running_loop().call_soon(self._flush_safely)
        except RuntimeError:
            return False
        return True

    def _flush_safely(self) -> None:
        try:
            self.flush()
        except Exception:  # noqa: BLE001  (as above)
            self.handleError(FieldsRecord(__name__, "log lines were lost", {}))

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting:
            self.stream.write("".join(waiting))
            self.stream.flush()


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Send every logger of the process to `stream`, standard output by default."""
    stream = stream or sys.stdout
    handler = LineHandler(stream)
    handler.setFormatter(TextFormatter() if stream.isatty() else JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
