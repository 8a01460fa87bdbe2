from __future__ import annotations

import subprocess
from pathlib import Path

from bench.gate.calibration import Calibration
from bench.gate.clone import Clone
from bench.gate.injections import MICRO
from bench.gate.validation import Kind, Log, Run, next_kind, summary


def _run(kind: Kind, verdict: str, *, is_right: bool, duration_s: float = 100.0) -> Run:
    return Run(
        revision="a" * 40,
        kind=kind,
        injection=None if kind == "same" else "memory",
        amount=0,
        verdict=verdict,
        failed=(),
        inconclusive=(),
        slowdowns={},
        base={},
        rounds={},
        num_rounds=8,
        duration_s=duration_s,
        load_average=0.0,
        is_right=is_right,
    )


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    sse = next(each for each in MICRO if each.name == "sse")
    run = _run("same", "pass", is_right=True)
    log = Log(tmp_path / "log.jsonl")
    assert (log.runs, log.amount(sse, lambda _: True)) == ([], None)
    log.add(Calibration(revision="a" * 40, injection="sse", probe=180, slowdown=1.3, amount=30))
    log.add(run)
    for found in (log, Log(tmp_path / "log.jsonl")):
        assert found.runs == [run]
        assert found.amount(sse, lambda revision: revision == "a" * 40) == 30
        assert found.amount(sse, lambda revision: revision == "b" * 40) is None  # another function takes another amount


def test_a_revision_has_the_function_of_another_that_differs_elsewhere(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        author = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        command = ["git", "-C", str(tmp_path / "repository"), *author, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    revisions = []
    for folder in ("handler", "bench", "handler"):
        path = tmp_path / "repository" / folder / f"{len(revisions)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        if not revisions:
            git("init", "--quiet")
        git("add", ".")
        git("commit", "--quiet", "--message", folder)
        revisions.append(git("rev-parse", "HEAD"))
    first, second, third = revisions
    git("checkout", "--quiet", second)
    clone = Clone(tmp_path / "repository", tmp_path / "clone")
    assert clone.base == second
    assert [clone.has_function_of(each) for each in (first, second, third, "f" * 40)] == [True, True, False, False]


def test_a_summary_counts_what_was_right() -> None:
    runs = [
        _run("same", "pass", is_right=True),
        _run("same", "inconclusive", is_right=True, duration_s=300.0),
        _run("same", "fail", is_right=False),
        _run("end-to-end", "fail", is_right=True),
    ]
    assert list(summary(runs)) == [
        "same: right in 2 of 3, inconclusive in 1; took 100 s, 300 s at most",
        "end-to-end: right in 1 of 1, inconclusive in 0; took 100 s, 100 s at most",
    ]


def test_runs_of_all_kinds_keep_step_and_those_that_inject_nothing_come_first() -> None:
    wanted: dict[Kind, int] = {"same": 4, "end-to-end": 2, "micro": 0}
    runs: list[Run] = []
    while (kind := next_kind(wanted, runs)) is not None:
        runs.append(_run(kind, "pass", is_right=True))
    assert [run.kind for run in runs] == ["same", "end-to-end", "same", "same", "end-to-end", "same"]
