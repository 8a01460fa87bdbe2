"""A process that hangs, crashes, leaves or does not come at all."""

from __future__ import annotations

import sys
import time

import pytest

from handler.engine import trial as trial_module
from handler.engine.trial import Trial
from handler.errors import EngineError

ECHO = """
import json, os, sys, time
print(json.dumps(GREETING), flush=True)
for line in sys.stdin:
    exec(json.loads(line))
"""


def started(greeting: str = "") -> Trial:
    return Trial([sys.executable, "-S", "-c", ECHO.replace("GREETING", repr(greeting))])


def answer(text: str) -> bytes:
    return f"\"print(json.dumps('{text}'), flush=True)\"".encode()


def test_it_answers_line_by_line() -> None:
    trial = started()
    assert [trial.run(answer(text)) for text in ("", "too bad", "")] == ["", "too bad", ""]


def test_one_that_hangs_is_killed_and_another_asked_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "TIMEOUT_S", 0.2)
    trial = started()
    assert trial.run(b'"time.sleep(600)"') == "it takes more than 0.2 s"
    monkeypatch.undo()
    assert trial.run(answer("well")) == "well"


def test_one_that_crashes_says_so_and_another_is_asked_next() -> None:
    trial = started()
    assert "nested" in trial.run(b'"os.abort()"')
    assert trial.run(answer("well")) == "well"


def test_one_that_left_in_good_order_is_replaced() -> None:
    trial = started()
    # It answers and leaves; whether it is gone already when the next line comes is open.
    assert trial.run(b"\"print(json.dumps('bye'), flush=True); sys.exit(0)\"") == "bye"
    assert trial.run(answer("well")) == "well"
    child = trial._child
    assert child is not None
    child._process.stdin.close()  # type: ignore[union-attr]
    child._process.wait()
    trial = started()
    trial.run(answer(""))
    trial._child._process.terminate()  # type: ignore[union-attr]
    trial._child._process.wait()  # type: ignore[union-attr]
    assert "nested" in trial.run(answer("well"))


def test_what_it_greets_with_holds_for_every_line() -> None:
    trial = started("no such vocabulary")
    assert [trial.run(answer("well")) for _ in range(2)] == ["no such vocabulary"] * 2


def test_one_that_does_not_start_is_the_engines_fault() -> None:
    with pytest.raises(EngineError, match="does not start"):
        Trial([sys.executable, "-c", "raise SystemExit(3)"]).run(b'""')


def test_the_process_ends_with_its_owner() -> None:
    trial = started()
    trial.run(answer(""))
    child = trial._child
    assert child is not None
    process = child._process
    del trial, child
    assert process.poll() is not None


def test_a_hang_costs_its_time_limit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "TIMEOUT_S", 0.2)
    trial = started()
    began_s = time.monotonic()
    trial.run(b'"while True: pass"')
    assert time.monotonic() - began_s < 5
