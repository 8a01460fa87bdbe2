"""A process that hangs, crashes, leaves or does not come at all."""

from __future__ import annotations

import os
import signal
import sys
import threading

import pytest

from handler.engine import trial as trial_module
from handler.engine.trial import Trial
from handler.errors import EngineError, OverloadedError

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


def test_one_that_computes_too_long_ends_itself() -> None:
    trial = started()
    assert (
        trial.run(b'"import signal; signal.setitimer(signal.ITIMER_PROF, 0.1)\\nwhile True: pass"')
        == "it takes too long"
    )
    assert trial.run(answer("well")) == "well"


def test_a_busy_machine_is_not_the_lines_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "TIMEOUT_S", 0.2)
    trial = started()
    with pytest.raises(OverloadedError, match="busy"):
        trial.run(b'"time.sleep(600)"')
    monkeypatch.undo()
    assert trial.run(answer("well")) == "well"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_ended_from_outside_is_replaced(number: signal.Signals) -> None:
    trial = started()
    trial.run(answer(""))
    trial._child._process.send_signal(number)  # type: ignore[union-attr]
    trial._child._process.wait()  # type: ignore[union-attr]
    assert trial.run(answer("well")) == "well"
    with pytest.raises(OverloadedError, match="was ended"):
        trial.run(f'"os.kill(os.getpid(), {number})"'.encode())
    assert trial.run(answer("well")) == "well"


def test_not_all_threads_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_module, "MOST_WAITING", 2)
    trial = started()
    trial.run(answer(""))
    with trial._lock:
        threads = [threading.Thread(target=trial.run, args=(answer("well"),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        while trial._places._value:
            os.sched_yield()
        with pytest.raises(OverloadedError, match="Too many"):
            trial.run(answer("well"))
    for thread in threads:
        thread.join()
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


def test_what_it_greets_with_holds_for_every_line() -> None:
    trial = started("no such vocabulary")
    assert [trial.run(answer("well")) for _ in range(2)] == ["no such vocabulary"] * 2


def test_one_that_does_not_start_is_the_engines_fault() -> None:
    with pytest.raises(EngineError, match="does not start"):
        Trial([sys.executable, "-c", "raise SystemExit(3)"]).run(b'""')


def test_a_program_that_is_not_there_is_the_engines_fault() -> None:
    with pytest.raises(EngineError, match="does not start"):
        Trial(["/nowhere/python"]).run(b'""')


def test_the_process_ends_with_its_owner() -> None:
    trial = started()
    trial.run(answer(""))
    child = trial._child
    assert child is not None
    process = child._process
    del trial, child
    assert process.poll() is not None
