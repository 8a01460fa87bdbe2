from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.errors import BenchError
from bench.load.raw import RawLog, read_records, write_records
from tests.bench.test_record import RECORD

OTHER = msgspec.structs.replace(RECORD, number=1, failure="timeout", error="late", first_byte_s=None, token_times_s=())


def test_records_come_back_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "raw.jsonl"
    write_records(path, [RECORD, OTHER])
    assert read_records(path) == [OTHER, RECORD]
    assert len(path.read_text().splitlines()) == 2


def test_a_log_grows_as_requests_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "raw.jsonl"
    log = RawLog(path)
    log.write(RECORD)
    log.write(OTHER)
    log.close()
    assert read_records(path) == [RECORD, OTHER]


def test_files_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}\n")
    with pytest.raises(BenchError, match=r"raw: .* cannot be written"):
        write_records(tmp_path / "file" / "raw.jsonl", [RECORD])
    with pytest.raises(BenchError, match=r"raw: .* cannot be written"):
        RawLog(tmp_path / "file" / "raw.jsonl")
    with pytest.raises(BenchError, match=r"raw: .* holds no records"):
        read_records(tmp_path / "file")
    with pytest.raises(BenchError, match=r"raw: .* cannot be read"):
        read_records(tmp_path / "none")
