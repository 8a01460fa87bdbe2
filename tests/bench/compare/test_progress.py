from __future__ import annotations

import io

from rich.console import Console

from bench.compare.progress import RunProgress, clock


def test_a_pipe_gets_a_line_for_each_step() -> None:
    written = io.StringIO()
    with RunProgress(2, 100.0, Console(file=written)) as progress:
        progress.say("[red] stays")
        progress.begin("flask, closed loops", 60.0)
        progress.load("chat at 64")
        progress.begin("flask, open loops", 40.0)
    lines = written.getvalue().splitlines()
    assert lines[0] == "[red] stays"
    assert lines[1].startswith("  flask, closed loops: 1 of 2, 0:00 elapsed, about 1:40 left")
    assert lines[2].startswith("  flask, open loops: 2 of 2, ")
    assert len(lines) == 3


def test_a_terminal_sees_what_a_step_is_at() -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with RunProgress(2, 100.0, console) as progress:
        progress.begin("flask, closed loops", 60.0)
        progress.load("chat at 64")
    assert "flask, closed loops" in written.getvalue()
    assert "chat at 64" in written.getvalue()


def test_minutes_and_seconds() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.6, 600.0)] == ["0:00", "1:00", "10:00"]
