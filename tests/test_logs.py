from __future__ import annotations

import io
import json
import logging
import re
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from handler.logs import FIELDS, JsonFormatter, TextFormatter, configure_logging, log_entries


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("", "uvicorn", "uvicorn.error", "asyncio")]
    levels = [logger.level for logger in loggers]
    handlers = list(loggers[0].handlers)
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def record(message: str, fields: dict[str, Any] | None = None) -> logging.LogRecord:
    made = logging.LogRecord("handler.x", logging.WARNING, __file__, 1, message, (), None)
    if fields is not None:
        setattr(made, FIELDS, fields)
    return made


def test_json_has_what_every_line_has_and_the_fields_of_the_call() -> None:
    entry = json.loads(JsonFormatter().format(record("hello", {"request_id": "r", "duration_ms": 1.5, "gone": None})))
    time = entry.pop("time")
    assert time.endswith("+00:00")
    assert entry == {
        "level": "warning",
        "logger": "handler.x",
        "message": "hello",
        "request_id": "r",
        "duration_ms": 1.5,
        "gone": None,
    }


@pytest.mark.parametrize("text", ["line\nbreak", "\ud800", "\x1b[2J", "\u2028", '"'])
def test_json_is_one_line_whatever_the_text(text: str) -> None:
    line = JsonFormatter().format(record(text, {"field": text, "big": 2**80}))
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["message"], entry["field"]) == (text, text)


def test_an_exception_travels_in_the_entry() -> None:
    made = record("failed")
    try:
        int("no number")
    except ValueError:
        made.exc_info = sys.exc_info()
    assert "ValueError: invalid literal" in json.loads(JsonFormatter().format(made))["exception"]
    assert TextFormatter().format(made).splitlines()[-1].startswith("  ValueError: invalid literal")


@pytest.mark.parametrize("name", ["handler.error_responses", "uvicorn.error", "asyncio"])
def test_what_an_exception_says_beside_a_request_is_withheld(name: str) -> None:
    made = record("failed\nfuture: <Task exception=ValueError('a prompt')>" if name == "asyncio" else "failed")
    made.name = name
    try:
        try:
            int("a prompt")
        except ValueError as error:
            raise ExceptionGroup("a prompt", [KeyError("a prompt"), RuntimeError("a prompt")]) from error
    except ExceptionGroup:
        made.exc_info = sys.exc_info()
    for formatter in (JsonFormatter(), TextFormatter()):
        text = formatter.format(made)
        assert all(
            kind in text for kind in ("ExceptionGroup", "ValueError", "KeyError", "RuntimeError", "test_logs.py")
        )
        assert "a prompt" not in re.sub(r'"a prompt"|\\"a prompt\\"', "", text)  # but for the lines of this test
    assert "future" not in text


def test_no_line_of_an_exception_passes_for_one_of_the_log() -> None:
    made = record("failed")
    try:
        int("x\n12:00:00 info    forged \x1b[2J")
    except ValueError as error:
        error.add_note("\x1b[2J\r12:00:00 forged\n12:00:00 forged")
        made.exc_info = sys.exc_info()
    _, *others = TextFormatter().format(made).splitlines()
    assert all(line.startswith("  ") and line.isprintable() for line in others)
    assert len(JsonFormatter().format(made).splitlines()) == 1


def test_text_shows_what_is_known() -> None:
    line = TextFormatter().format(record("hello", {"status": "success", "gone": None}))
    assert line.endswith("warning hello status=success")


def test_what_a_client_wrote_cannot_play_with_the_terminal() -> None:
    line = TextFormatter().format(record("request", {"endpoint": "/v1/\x1b[2J\n12:00:00 forged"}))
    assert line.splitlines() == [line]
    assert "\x1b" not in line


def test_a_terminal_gets_text_and_anything_else_json() -> None:
    for stream, is_json in ((io.StringIO(), True), (Terminal(), False)):
        configure_logging("info", stream)
        logging.getLogger("handler.y").info("hello")
        assert stream.getvalue().startswith("{") == is_json
        assert "hello" in stream.getvalue()


def test_the_level_holds_and_uvicorn_speaks_only_of_trouble() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    logging.getLogger("handler.y").debug("a")
    logging.getLogger("uvicorn.error").info("b")
    logging.getLogger("uvicorn.error").warning("c")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["c"]


class Entry(msgspec.Struct, frozen=True):
    """What is logged several times at once."""

    number: int
    text: str | None = None


def test_entries_are_lines_as_if_each_were_logged_alone() -> None:
    stream = io.StringIO()
    configure_logging("info", stream)
    entries = [Entry(1, 'a line\'s end\n{"number":3}\n{'), Entry(2)]
    log_entries(logging.getLogger("handler.access"), "request", entries)
    for entry in entries:
        logging.getLogger("handler.access").info("request", extra={FIELDS: msgspec.structs.asdict(entry)})
    lines = [json.loads(line) | {"time": None} for line in stream.getvalue().splitlines()]
    assert len(lines) == 4
    assert lines[:2] == lines[2:]


def test_several_entries_are_lines_of_one_record() -> None:
    for stream, shows in ((io.StringIO(), '"number":%d'), (Terminal(), "number=%d")):
        configure_logging("info", stream)
        log_entries(logging.getLogger("handler.access"), "request", [Entry(1, "here"), Entry(2)])
        lines = stream.getvalue().splitlines()
        assert len(lines) == 2
        assert all("request" in line and shows % number in line for number, line in enumerate(lines, 1))


def test_the_level_holds_for_entries_too() -> None:
    stream = io.StringIO()
    configure_logging("warning", stream)
    log_entries(logging.getLogger("handler.access"), "request", [Entry(1)])
    assert stream.getvalue() == ""
