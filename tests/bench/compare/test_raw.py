from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from bench.compare.raw import RawFiles
from bench.errors import BenchError


def test_small_files_stay_as_they_are(tmp_path: Path) -> None:
    raw = RawFiles(tmp_path / "raw")
    assert raw.write("round1-flask", [{"latency_us": 1}, {"latency_us": 2}]) == "round1-flask.jsonl"
    assert (tmp_path / "raw" / "round1-flask.jsonl").read_text() == '{"latency_us":1}\n{"latency_us":2}\n'


def test_large_files_are_packed(tmp_path: Path) -> None:
    raw = RawFiles(tmp_path)
    assert raw.write("large", ["x" * 1000] * 2000) == "large.jsonl.gz"
    assert [path.name for path in tmp_path.iterdir()] == ["large.jsonl.gz"]
    assert gzip.decompress((tmp_path / "large.jsonl.gz").read_bytes()).count(b"\n") == 2000


def test_without_a_directory_nothing_is_kept() -> None:
    raw = RawFiles(None)
    assert raw.path("any") is None
    assert raw.write("any", [1]) is None
    assert raw.keep("any") is None


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BenchError, match="cannot be made"):
        RawFiles(tmp_path / "file" / "raw")
