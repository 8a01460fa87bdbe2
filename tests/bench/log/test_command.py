from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

import bench.cli
from bench.log.contenders import COMPARISONS, SERVERS, SHIPPERS
from bench.result import Result
from handler.__main__ import main

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


def bench_log(*arguments: str) -> int:
    return main(["bench", "log", *arguments], {"bench": bench.cli})


@needs_wrk
def test_a_short_run(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    out = tmp_path / "result.json"
    size = ("--rounds", "1", "--seconds", "1", "--connections", "8", "--records", "4000", "--rate", "2000")
    code = bench_log(*size, "--json", "--out", str(out))
    result = msgspec.json.decode(capsysbinary.readouterr().out, type=Result)
    assert result.failures == ()  # so that rows are as many as records and answers
    assert code == 0
    assert result == msgspec.json.decode(out.read_bytes(), type=Result)
    assert set(result.summary) == {*SERVERS, *SHIPPERS}
    assert len(result.ratios) == len(COMPARISONS)
    postgres_us = {name: result.summary[name]["postgres_cpu_us"].median for name in SERVERS}
    assert postgres_us["postgres"] > 2 * postgres_us["no-log"]  # where it may tidy up for itself
    for name in SERVERS:
        metrics = result.summary[name]
        assert 0 < metrics["loop_cpu_us"].median <= metrics["cpu_us"].median * 1.1  # the second one counts in ticks
    details = {entry.contender: entry.details for entry in result.rounds}
    assert details["flow"]["most_spooled"] < 4000
    assert (details["backlog"]["rows"], details["backlog"]["most_spooled"]) == (4000, 4000)


def test_a_flow_that_is_too_short_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_log("--only", "flow", "--records", "100", "--rate", "100") == 2
    assert "--records" in capsys.readouterr().err


def test_without_wrk_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert bench_log("--only", "spool") == 2
    assert "apt-get install wrk" in capsys.readouterr().err
