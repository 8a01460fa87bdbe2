from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

import bench.cli
from bench.history.check import HistoryCheck
from bench.history.entry import keep
from handler.__main__ import main
from tests.bench.history.series import CPU, commit_of, entry, noisy, stepped
from tests.bench.history.test_sources import HEAD, gate_file, micro_file


def bench_history(*arguments: str) -> int:
    return main(["bench", "history", *arguments], {"bench": bench.cli})


def made(path: Path, values: list[float]) -> str:
    for number, value in enumerate(values):
        keep(path, entry(number, {"p99": value}))
    return str(path)


def test_results_are_added_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = [str(gate_file(tmp_path / "gate.json")), str(micro_file(tmp_path / "micro.json"))]
    history = str(tmp_path / "history.jsonl")
    assert bench_history("add", *results, "--history", history) == 0
    assert capsys.readouterr().out == f"{HEAD[:12]} on Some Processor: added, 3 metrics\n"
    assert bench_history("add", *results, "--history", history) == 0
    assert "measured again" in capsys.readouterr().out
    assert len(Path(history).read_text().splitlines()) == 1


def test_a_regression_is_a_finding(otava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del otava
    values = noisy(40, seed=11)
    steady = made(tmp_path / "steady.jsonl", values)
    slower = made(tmp_path / "slower.jsonl", stepped(values, at=30, by=1.1))
    assert bench_history("check", "--history", steady, "--json") == 0
    result = msgspec.json.decode(capsys.readouterr().out, type=HistoryCheck)
    assert (result.verdict, result.cpu_model, result.num_commits) == ("pass", CPU, 40)
    assert bench_history("check", "--history", slower) == 1
    shown = capsys.readouterr().out
    assert commit_of(30)[:12] in shown
    assert "worse" in shown


def test_bad_usage_and_what_cannot_be_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    history = made(tmp_path / "history.jsonl", [1.0, 1.0])
    assert bench_history("check", "--history", history, "--min-change", "-1") == 2
    assert "--min-change" in capsys.readouterr().err
    assert bench_history("check", "--history", history, "--otava", str(tmp_path / "otava")) == 1
    assert "make otava" in capsys.readouterr().err
    assert bench_history("add", str(tmp_path / "nowhere.json"), "--history", history) == 1
    assert "nowhere.json" in capsys.readouterr().err
