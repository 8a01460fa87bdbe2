from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from handler.errors import SpoolError
from handler.requestlog.adoption import find_orphans
from handler.requestlog.line import encode
from handler.requestlog.record import Record
from handler.requestlog.rejected import REJECTED
from handler.requestlog.segment import SUFFIX, Segment
from handler.requestlog.spool import Batch, Spool
from tests.requestlog.records import make_record, records_of

SMALL = 800  # a segment of five records


def segments(directory: Path) -> list[Path]:
    return sorted(directory.glob(f"*{SUFFIX}"))


def adopt(spool: Spool) -> None:
    spool.take_over(find_orphans(spool.directory))


def drain(spool: Spool, max_records: int = 1000) -> list[Record]:
    records: list[Record] = []
    while (batch := spool.read(max_records, 1 << 20)) is not None:
        records += records_of(batch)
        spool.acknowledge(batch)
    return records


def replay(directory: Path) -> list[Record]:
    spool = Spool(directory)
    adopt(spool)
    records = drain(spool)
    spool.close()
    return records


def test_records_come_back_in_order(tmp_path):
    spool = Spool(tmp_path, segment_bytes=SMALL)
    records = [make_record(number) for number in range(50)]
    for record in records:
        spool.append(record)
    assert spool.pending_records == 50
    assert len(segments(tmp_path)) == 10
    assert drain(spool, max_records=4) == records
    assert spool.pending_records == 0


def test_nothing_shipped_is_left_on_disk(tmp_path):
    spool = Spool(tmp_path, segment_bytes=SMALL)
    for number in range(50):
        spool.append(make_record(number))
    drain(spool)
    (active,) = segments(tmp_path)
    assert active.stat().st_size == 0
    spool.append(make_record(51))
    assert [record.request_id for record in drain(spool)] == ["req-51"]
    spool.close()
    assert segments(tmp_path) == []


def test_what_comes_after_the_end_is_refused_or_kept_and_never_lost(tmp_path):
    spool = Spool(tmp_path)
    spool.close()
    record = make_record(1)
    with pytest.raises(SpoolError):
        spool.append(record)
    spool.append(record)
    spool.close()
    assert replay(tmp_path) == [record]


def test_a_batch_stays_the_same_until_it_is_acknowledged(tmp_path):
    spool = Spool(tmp_path)
    spool.append(make_record(1))
    first = spool.read(10, 1 << 20)
    spool.append(make_record(2))
    assert spool.read(10, 1 << 20) is first
    assert first is not None
    spool.acknowledge(first)
    assert [record.request_id for record in drain(spool)] == ["req-2"]


def test_a_batch_is_limited_in_bytes_but_never_empty(tmp_path):
    spool = Spool(tmp_path)
    for number in range(3):
        spool.append(make_record(number, completion="x" * 1000))
    batch = spool.read(10, 10)
    assert batch is not None
    assert batch.num_records == 1


def test_unacknowledged_records_are_replayed_by_the_next_process(tmp_path):
    spool = Spool(tmp_path, segment_bytes=SMALL)
    records = [make_record(number) for number in range(20)]
    for record in records:
        spool.append(record)
    batch = spool.read(5, 1 << 20)
    assert batch is not None
    spool.acknowledge(batch)
    spool.close()
    replayed = replay(tmp_path)
    assert replayed[-15:] == records[-15:]
    assert replayed == records[-len(replayed) :]
    assert segments(tmp_path) == []


def test_two_instances_share_a_directory_without_touching_each_other(tmp_path):
    one, two = Spool(tmp_path, segment_bytes=SMALL), Spool(tmp_path, segment_bytes=SMALL)
    for number in range(10):
        one.append(make_record(number))
        two.append(make_record(100 + number))
    adopt(one)
    adopt(two)
    assert [record.request_id for record in drain(one)] == [f"req-{number}" for number in range(10)]
    assert [record.request_id for record in drain(two)] == [f"req-{100 + number}" for number in range(10)]


def test_orphans_are_adopted_by_one_instance_only(tmp_path):
    gone = Spool(tmp_path, segment_bytes=SMALL)
    records = [make_record(number) for number in range(10)]
    for record in records:
        gone.append(record)
    gone.close()
    one, two = Spool(tmp_path), Spool(tmp_path)
    one.append(make_record(99))
    adopt(one)
    adopt(two)
    assert one.pending_records == 11
    assert two.pending_records == 0
    assert drain(one)[:10] == records  # the orphans are older


def test_an_instance_does_not_adopt_what_was_deleted_while_it_looked(tmp_path, monkeypatch):
    path = tmp_path / f"0{SUFFIX}"
    assert Segment.adopt(path) is None
    path.write_bytes(b"")
    real = fcntl.flock

    def last_moment(descriptor: int, operation: int) -> None:
        path.unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", last_moment)
    assert Segment.adopt(path) is None
    assert Segment.create(path) is None


def test_a_segment_that_cannot_be_read_does_not_hold_up_the_others(tmp_path, caplog):
    gone = Spool(tmp_path)
    gone.append(make_record(1))
    gone.close()
    (tmp_path / f"0{SUFFIX}").mkdir()
    assert [record.request_id for record in replay(tmp_path)] == ["req-1"]
    assert f"0{SUFFIX}" in caplog.text


def test_a_torn_last_frame_is_dropped_with_a_warning(tmp_path, caplog):
    spool = Spool(tmp_path)
    for number in range(3):
        spool.append(make_record(number))
    spool.close()
    (path,) = segments(tmp_path)
    os.truncate(path, path.stat().st_size - 5)
    size = path.stat().st_size
    with caplog.at_level(logging.WARNING):
        assert [record.request_id for record in replay(tmp_path)] == ["req-0", "req-1"]
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"dropped {size - 2 * (size + 5) // 3} bytes" in message


def test_a_corrupt_last_frame_is_dropped_with_a_warning(tmp_path, caplog):
    spool = Spool(tmp_path)
    for number in range(3):
        spool.append(make_record(number))
    spool.close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert [record.request_id for record in replay(tmp_path)] == ["req-0", "req-1"]
    assert "bytes that are no whole frame" in caplog.text
    assert segments(tmp_path) == []


def test_zeros_behind_the_last_frame_are_no_frames(tmp_path):
    spool = Spool(tmp_path)
    spool.append(make_record(1))
    spool.close()
    (path,) = segments(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(4096))
    assert len(replay(tmp_path)) == 1
    assert not (tmp_path / REJECTED).exists()


def test_a_whole_frame_that_has_no_lines_is_set_aside(tmp_path, caplog):
    segment = Segment.create(tmp_path / f"0{SUFFIX}")
    assert segment is not None
    segment.append(b"\x81\xa2id\xc0", 1)
    segment.append(encode([make_record(1)]), 1)
    segment.close()
    assert [record.request_id for record in replay(tmp_path)] == ["req-1"]
    line = json.loads((tmp_path / REJECTED).read_text())
    assert "not a record" in line["error"]
    assert "payload" in line
    assert "rejected" in caplog.text


def test_records_that_come_together_are_one_write(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: writes.append(data) or real(descriptor, data))
    spool.append(*map(make_record, range(5)))
    assert len(writes) == 1
    assert (spool.pending_records, spool.appended_records) == (5, 5)
    assert [record.request_id for record in drain(spool)] == [f"req-{number}" for number in range(5)]
    assert (spool.pending_records, spool.settled_records) == (0, 5)


def test_appending_nothing_leaves_nothing_in_the_way(tmp_path, caplog):
    spool = Spool(tmp_path)
    spool.append()
    spool.append(make_record(1))
    assert [record.request_id for record in drain(spool)] == ["req-1"]
    assert (spool.pending_records, spool.appended_records) == (0, 1)
    assert caplog.text == ""


@pytest.mark.parametrize("num_records", [1, 3])  # of three, the half that is written holds a whole frame
def test_a_failed_append_leaves_no_part_of_a_frame(tmp_path, monkeypatch, num_records):
    spool = Spool(tmp_path)
    spool.append(make_record(1))
    real = os.write

    def half(descriptor: int, data: bytes) -> int:  # what a full disk does
        return real(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(SpoolError, match="cannot append"):
            spool.append(*(make_record(100 + number) for number in range(num_records)))
    spool.append(make_record(3))
    assert len(segments(tmp_path)) == 1
    assert spool.pending_records == 2
    assert [record.request_id for record in drain(spool)] == ["req-1", "req-3"]


def test_a_segment_that_cannot_be_repaired_is_left_behind(tmp_path, monkeypatch):
    spool = Spool(tmp_path)
    spool.append(make_record(1))
    real = os.write

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:20]))
        patch.setattr(os, "ftruncate", refuse)
        with pytest.raises(SpoolError):
            spool.append(make_record(2))
    spool.append(make_record(3))
    assert len(segments(tmp_path)) == 2
    assert [record.request_id for record in drain(spool)] == ["req-1", "req-3"]


def test_a_directory_that_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match="cannot create"):
        Spool(tmp_path / "file" / "spool")


def test_prompts_on_disk_are_readable_by_the_owner_only(tmp_path):
    spool = Spool(tmp_path / "spool")
    spool.rejected.add_line(encode([make_record(1)]), "why")
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
    for path in (tmp_path / "spool").iterdir():
        assert path.stat().st_mode & 0o077 == 0


@settings(max_examples=60)
@given(st.lists(st.integers(0, 400), min_size=1, max_size=8), st.data())
def test_cutting_a_segment_anywhere_keeps_exactly_the_whole_records(sizes: list[int], data: st.DataObject):
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        spool = Spool(directory)
        ends, records = [0], []
        for number, size in enumerate(sizes):
            records.append(make_record(number, completion="x" * size))
            spool.append(records[-1])
            ends.append(sum(path.stat().st_size for path in segments(directory)))
        spool.close()
        (path,) = segments(directory)
        cut = data.draw(st.integers(0, ends[-1]), label="cut")
        os.truncate(path, cut)
        assert replay(directory) == records[: sum(end <= cut for end in ends[1:])]


class SpoolMachine(RuleBasedStateMachine):
    """Any order of append, read, acknowledge, adopt and reopen, against a list."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.spool = Spool(Path(self.directory.name), segment_bytes=SMALL)
        self.expected: list[Record] = []
        self.batch: Batch | None = None
        self.number = 0

    @rule(size=st.integers(0, 300))
    def append(self, size: int) -> None:
        self.number += 1
        self.expected.append(make_record(self.number, completion="x" * size))
        self.spool.append(self.expected[-1])

    @rule(max_records=st.integers(1, 5))
    def read(self, max_records: int) -> None:
        batch = self.spool.read(max_records, 1 << 20)
        assert (batch is None) == (not self.expected)
        if batch is not None:
            assert records_of(batch) == self.expected[: batch.num_records]
        self.batch = batch

    @rule()
    def acknowledge(self) -> None:
        if self.batch is not None:
            self.spool.acknowledge(self.batch)
            del self.expected[: self.batch.num_records]
            self.batch = None

    @rule()
    def reopen(self) -> None:
        self.spool.close()
        self.spool = Spool(Path(self.directory.name), segment_bytes=SMALL)
        adopt(self.spool)
        self.batch = None
        # What was acknowledged may come again, but in order, and in front of what was not.
        replayed = drain(self.spool)
        assert replayed[len(replayed) - len(self.expected) :] == self.expected
        self.expected = []

    @invariant()
    def counts(self) -> None:
        assert self.spool.pending_records == len(self.expected)

    def teardown(self) -> None:
        self.spool.close()
        self.directory.cleanup()


TestSpoolMachine = SpoolMachine.TestCase
TestSpoolMachine.settings = settings(max_examples=40, stateful_step_count=30)


APPENDER = """
import sys
from pathlib import Path
from handler.requestlog.spool import Spool
from tests.requestlog.records import make_record, records_of
spool = Spool(Path(sys.argv[1]), segment_bytes=20_000)
number = 0
while True:
    spool.append(make_record(number))
    number += 1
    sys.stdout.write(f"{number}\\n")
    sys.stdout.flush()
"""


def test_every_append_that_returned_survives_kill_9(tmp_path):
    command = [sys.executable, "-c", APPENDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) == 2000:
                break
        living = Spool(tmp_path)
        adopt(living)
        assert living.pending_records == 0  # what has a living owner is no orphan
        living.close()
        child.send_signal(signal.SIGKILL)
        reported = [int(rest) for rest in child.stdout.read().splitlines() if rest]
    returned = max(reported, default=2000)
    replayed = replay(tmp_path)
    assert len(replayed) >= returned
    assert [record.request_id for record in replayed] == [f"req-{number}" for number in range(len(replayed))]
