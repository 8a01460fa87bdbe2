"""Segments that were damaged on disk: what is lost is what was hit, and the function's own log says so."""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path

import pytest

from handler.requestlog.adoption import find_orphans
from handler.requestlog.line import encode
from handler.requestlog.segment import FRAME_HEADER, SUFFIX, Segment
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from tests.requestlog.records import make_record
from tests.requestlog.test_spool import adopt, drain, replay, segments

NUM_RECORDS = 4


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """One that a dead process has left, with frames of equal size."""
    spool = Spool(tmp_path)
    for number in range(NUM_RECORDS):
        spool.append(make_record(number))
    spool.close()
    (path,) = segments(tmp_path)
    return path


def survivors(path: Path, content: bytes) -> list[int]:
    """The numbers of the records that are replayed when the segment holds this."""
    path.write_bytes(content)
    return [int(record.request_id.removeprefix("req-")) for record in replay(path.parent)]


def test_cut_at_every_byte_the_whole_records_before_are_kept(segment, caplog):
    content = segment.read_bytes()
    frame_bytes = len(content) // NUM_RECORDS
    for cut in range(len(content) + 1):
        caplog.clear()
        assert survivors(segment, content[:cut]) == list(range(cut // frame_bytes))
        torn = cut % frame_bytes
        assert [entry.args[1] for entry in caplog.records if "no whole frame" in entry.message] == (
            [torn] if torn else []
        )


def test_whatever_byte_is_flipped_its_record_alone_is_lost(segment, caplog):
    content = segment.read_bytes()
    frame_bytes = len(content) // NUM_RECORDS
    for position in range(len(content)):
        caplog.clear()
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        hit = position // frame_bytes
        assert survivors(segment, bytes(damaged)) == [number for number in range(NUM_RECORDS) if number != hit]
        assert f"dropped {frame_bytes} bytes" in caplog.text


@pytest.mark.parametrize("length", [0, 1, 100, 1 << 20, (1 << 32) - 1])
def test_a_wrong_length_hides_no_later_record(segment, length):
    content = bytearray(segment.read_bytes())
    struct.pack_into("<I", content, len(content) // NUM_RECORDS + 4, length)
    assert survivors(segment, bytes(content)) == [0, 2, 3]


@pytest.mark.parametrize("num_zeros", [1, 11, 12, 13, 4096, 3 << 20])
def test_zeros_in_the_middle_and_at_the_end_are_passed_over(segment, num_zeros):
    content, zeros = segment.read_bytes(), bytes(num_zeros)
    middle = 2 * len(content) // NUM_RECORDS
    assert survivors(segment, content[:middle] + zeros + content[middle:] + zeros) == [0, 1, 2, 3]


def test_two_hits_lose_two_records(segment):
    content = bytearray(segment.read_bytes())
    frame_bytes = len(content) // NUM_RECORDS
    for number in (0, 2):
        content[number * frame_bytes + 30] ^= 0xFF
    assert survivors(segment, bytes(content)) == [1, 3]


def test_a_segment_of_nothing_but_rubbish_goes(segment):
    assert survivors(segment, os.urandom(5000)) == []
    assert not segment.exists()


def test_a_prompt_that_reads_like_a_frame_makes_no_record(tmp_path):
    forged = encode([make_record(99)])
    payload = FRAME_HEADER.pack(b"mine", len(forged), zlib.crc32(forged, 1), 1) + forged
    path = tmp_path / f"0{SUFFIX}"
    segment = Segment.create(path)
    assert segment is not None
    segment.append(payload, 1)
    segment.append(encode([make_record(1)]), 1)
    segment.close()
    content = bytearray(path.read_bytes())
    content[FRAME_HEADER.size - 1] ^= 1  # in the outer frame's header
    assert survivors(path, bytes(content)) == [1]


def test_frames_larger_than_what_is_read_at_once_come_back(tmp_path):
    spool = Spool(tmp_path)
    records = [
        make_record(number, completion="x" * size) for number, size in enumerate((1, 3 << 20, 700_000, 2 << 20, 5))
    ]
    for record in records:
        spool.append(record)
    assert drain(spool) == records
    for record in records:
        spool.append(record)
    spool.close()
    assert replay(tmp_path) == records


@pytest.mark.parametrize("hit", range(NUM_RECORDS))
def test_what_is_damaged_while_its_process_lives_is_passed_over(tmp_path, hit, caplog):
    spool = Spool(tmp_path)
    for number in range(NUM_RECORDS):
        spool.append(make_record(number))
    (path,) = segments(tmp_path)
    with path.open("r+b") as file:
        file.seek(hit * path.stat().st_size // NUM_RECORDS + 4)
        file.write(b"\xff\xff\xff\xff")
    assert [record.request_id for record in drain(spool)] == [f"req-{n}" for n in range(NUM_RECORDS) if n != hit]
    assert spool.pending_records == 0
    assert "no whole frame" in caplog.text
    spool.append(make_record(9))
    assert [record.request_id for record in drain(spool)] == ["req-9"]


def test_a_segment_that_the_disk_does_not_give_back_holds_up_nobody(tmp_path, monkeypatch, caplog):
    gone = Spool(tmp_path)
    gone.append(make_record(1))
    gone.close()
    (bad,) = segments(tmp_path)
    inode = bad.stat().st_ino
    spool = Spool(tmp_path)
    adopt(spool)
    spool.append(make_record(2))
    real = os.pread

    def fail(descriptor: int, length: int, offset: int) -> bytes:
        if os.fstat(descriptor).st_ino == inode:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(descriptor, length, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        assert [record.request_id for record in drain(spool)] == ["req-2"]
        assert spool.pending_records == 0
        assert find_orphans(spool.directory) == []
        assert f"cannot read {bad}" in caplog.text
        inode = segments(tmp_path)[1].stat().st_ino
        spool.append(make_record(3))
        assert drain(spool) == []  # not even its own: it goes on with another
        spool.append(make_record(4))
        assert [record.request_id for record in drain(spool)] == ["req-4"]
    adopt(spool)
    assert [record.request_id for record in drain(spool)] == ["req-1", "req-3"]


async def test_who_flushes_learns_that_the_last_bytes_were_set_aside(tmp_path, postgres_url):
    sink = LogSink(Spool(tmp_path), postgres_url)
    sink._spool._active.append(b"no record", 1)
    sink._spool.appended_records += 1
    await sink.start()
    try:
        assert await sink.flush(5)
    finally:
        await sink.close(0)
