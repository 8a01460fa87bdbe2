from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.history.entry import keep, read_history
from tests.bench.history.series import entry


def test_entries_come_back_in_the_order_in_which_they_came(tmp_path: Path) -> None:
    path = tmp_path / "below" / "history.jsonl"
    entries = [entry(number, {"p99": float(number)}) for number in (3, 1, 2)]
    assert [keep(path, each) for each in entries] == [True, True, True]
    assert read_history(path) == entries
    assert len(path.read_text().splitlines()) == 3
    assert [each.name for each in path.parent.iterdir()] == ["history.jsonl"]


def test_a_commit_that_is_measured_again_keeps_its_place(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    for number in (1, 2, 3):
        keep(path, entry(number, {"p99": 1.0}))
    assert not keep(path, entry(2, {"p99": 5.0}))
    assert [each.metrics["p99"].value for each in read_history(path)] == [1.0, 5.0, 1.0]


def test_another_processor_is_another_entry(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    assert keep(path, entry(1, {"p99": 1.0}))
    assert keep(path, entry(1, {"p99": 2.0}, "Another"))
    assert [each.cpu_model for each in read_history(path)][1] == "Another"


def test_a_line_that_is_no_entry_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    keep(path, entry(1, {"p99": 1.0}))
    with path.open("a") as file:
        file.write('{"commit": 7}\n')
    before = path.read_bytes()
    with pytest.raises(BenchError, match="line 2"):
        keep(path, entry(2, {"p99": 1.0}))
    assert path.read_bytes() == before


def test_a_history_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nowhere"):
        read_history(tmp_path / "nowhere")
