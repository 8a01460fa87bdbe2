"""What the spool may take on disk, and what becomes of records beyond that."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from handler.errors import SpoolError
from handler.logs import FIELDS
from handler.requestlog.line import encode
from handler.requestlog.rejected import REJECTED
from handler.requestlog.spool import Spool
from tests.requestlog.records import make_record
from tests.requestlog.test_spool import adopt, drain, segments

MAX_BYTES = 20_000


def fill(spool: Spool, first: int = 0) -> int:
    """Append until the spool is full; the number that was refused."""
    number = first
    while is_appended(spool, number):
        number += 1
    return number


def is_appended(spool: Spool, number: int) -> bool:
    try:
        spool.append(make_record(number))
    except SpoolError:
        return False
    return True


def on_disk(directory: Path) -> int:
    return sum(path.stat().st_size for path in segments(directory))


def test_a_full_spool_refuses_whole_groups_and_takes_records_again_when_some_have_left(tmp_path):
    spool = Spool(tmp_path, max_bytes=MAX_BYTES)
    refused = fill(spool)
    assert MAX_BYTES - 200 < spool.size_bytes == on_disk(tmp_path) <= MAX_BYTES
    assert len(segments(tmp_path)) > 4  # so that a part of it can go
    with pytest.raises(SpoolError, match=f"is full: it holds .* of {MAX_BYTES} allowed"):
        spool.append(make_record(1000), make_record(1001))
    assert spool.pending_records == refused
    batch = spool.read(refused // 2, MAX_BYTES)
    assert batch is not None
    spool.acknowledge(batch)
    assert spool.size_bytes == on_disk(tmp_path) < MAX_BYTES
    last = fill(spool, refused)
    expected = [f"req-{number}" for number in range(batch.num_records, last)]
    assert [record.request_id for record in drain(spool)] == expected
    assert spool.size_bytes == on_disk(tmp_path) == 0


def test_what_was_adopted_counts_and_is_shipped_first(tmp_path):
    gone = Spool(tmp_path, max_bytes=MAX_BYTES)
    left = fill(gone)
    gone.close()
    spool = Spool(tmp_path, max_bytes=MAX_BYTES)
    spool.append(make_record(500))
    adopt(spool)
    assert spool.size_bytes == on_disk(tmp_path) > MAX_BYTES
    assert fill(spool, 501) == 501
    assert [record.request_id for record in drain(spool)] == [f"req-{number}" for number in (*range(left), 500)]
    assert fill(spool) > 100


def test_orphans_that_are_found_later_still_come_first(tmp_path):
    gone = Spool(tmp_path, segment_bytes=600)
    for number in range(10):
        gone.append(make_record(number))
    spool = Spool(tmp_path, segment_bytes=600)
    for number in range(10, 20):
        spool.append(make_record(number))
    first = spool.read(2, MAX_BYTES)
    assert first is not None
    gone.close()
    adopt(spool)
    assert spool.read(2, MAX_BYTES) is first  # it may be on its way
    spool.acknowledge(first)
    assert [record.request_id for record in drain(spool)] == [f"req-{n}" for n in (*range(10), *range(12, 20))]
    assert on_disk(tmp_path) == 0


def test_a_record_that_nobody_takes_is_a_log_line_once_the_file_is_full(tmp_path, caplog):
    spool = Spool(tmp_path, rejected_bytes=2000)
    for number in range(20):
        spool.rejected.add_line(encode([make_record(number, metadata={"a": 1})]), "why")
    lines = (tmp_path / REJECTED).read_text().splitlines()
    assert 1500 < (tmp_path / REJECTED).stat().st_size <= 2000
    kept = [json.loads(line)["record"]["request_id"] for line in lines]
    told = [getattr(entry, FIELDS) for entry in caplog.records if entry.message == "rejected record not set aside"]
    assert [*kept, *(entry["record"]["request_id"] for entry in told)] == [f"req-{number}" for number in range(20)]
    assert told[0]["error"] == "why"
    assert told[0]["record"]["metadata"] == {"a": 1}
    assert "of 2000 allowed" in told[0]["cause"]


def test_a_line_cut_off_by_a_full_disk_spoils_no_other(tmp_path, monkeypatch, caplog):
    spool = Spool(tmp_path)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:50]))
        spool.rejected.add_line(encode([make_record(1)]), "why")
    spool.rejected.add_line(encode([make_record(2)]), "why")
    torn, whole = (tmp_path / REJECTED).read_text().splitlines()
    assert len(torn) == 50
    assert json.loads(whole)["record"]["request_id"] == "req-2"
    assert "not set aside" in caplog.text
