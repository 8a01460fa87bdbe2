"""Records on disk that PostgreSQL does not have yet: a directory of segments, oldest first.

Knows no database, and does not look for what other processes left. All methods belong to one thread, the event loop's.

What survives: a record whose `append` has returned outlives this process, however it ends, because the kernel
has its bytes. The last seconds do not outlive a crash of the kernel or a power cut: nothing here waits for the
disk, and what the kernel had not written by then is dropped as a torn end when the segment is read. Several
processes may share the directory: each segment is locked by its owner, and those whose owner is gone are
adopted by another. Acknowledged frames may still be on disk when a process dies, so that they are shipped a
second time; the primary key makes that harmless.

What it takes on disk is bounded: past `max_bytes` of segments `append` refuses, and past `rejected_bytes` a rejected
record becomes a line in the function's own log instead.

Files: `<uuid7>.spool` are segments, one open descriptor each; `rejected.jsonl` holds what PostgreSQL refused, with
`error` and `record`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from handler.errors import SpoolError
from handler.requestlog.line import Entry, encode
from handler.requestlog.record import new_id
from handler.requestlog.rejected import REJECTED_BYTES, RejectedFile
from handler.requestlog.sealed import SealedSegments
from handler.requestlog.segment import FRAME_HEADER, SUFFIX, Segment

MAX_BYTES = 1024 * 1024 * 1024
SEGMENT_BYTES = 8 * 1024 * 1024
_LEAST_SEGMENTS = 8

_log = logging.getLogger(__name__)


class Batch(msgspec.Struct, frozen=True):
    """The oldest records that are not acknowledged, with what `acknowledge` needs to forget them.

    Attributes:
        payloads: each one or more lines as `line.encode` makes them.
        num_records: how many leave the spool with this batch.
        segment: where they lie.
        end_offset: where the next batch begins there.
    """

    payloads: tuple[bytes, ...]
    num_records: int
    segment: Segment
    end_offset: int


class Spool:
    """This process's view of a spool directory.

    Attributes:
        directory: where it lies.
        rejected: what PostgreSQL refused.
        appended_records: how many came in so far, by `append` and by `take_over`.
        adopted_records: how many of them by `take_over`.
        settled_records: how many of them left, by `acknowledge`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_bytes: int = MAX_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        rejected_bytes: int = REJECTED_BYTES,
    ) -> None:
        """Create the directory, readable by its owner only, and the first segment.

        Args:
            directory: may be shared with other processes.
            max_bytes: of all segments of this process together, adopted ones included.
            segment_bytes: a segment of that size gets a successor. It is smaller where `max_bytes` is small: a segment
                counts as a whole until all of it is shipped.
            rejected_bytes: of `rejected.jsonl`, which all processes share.

        Raises:
            SpoolError: the directory cannot be made or written.
        """
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SpoolError(f"cannot create {directory}: {error}") from error
        self.directory = directory
        self.rejected = RejectedFile(directory, rejected_bytes)
        self.appended_records = 0
        self.adopted_records = 0
        self.settled_records = 0
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max_bytes // _LEAST_SEGMENTS)
        self._sealed = SealedSegments()
        self._active_is_usable = True
        self._active = self._new_segment()
        self._unacknowledged: Batch | None = None

    @property
    def pending_records(self) -> int:
        """Records that are not acknowledged."""
        return self.appended_records - self.settled_records

    @property
    def size_bytes(self) -> int:
        """What all segments of this process take on disk."""
        return self._sealed.size_bytes + self._active.size_bytes

    @property
    def num_sealed(self) -> int:
        """Segments that are only read any more, each with a descriptor."""
        return len(self._sealed)

    def append(self, *entries: Entry) -> None:
        """Keep a record for each entry; when this returns, they survive the end of this process.

        Raises:
            SpoolError: they could not be kept, or the spool is full, and nothing of them was kept.
        """
        if not entries:
            return  # a frame without records would look like the zeros that a power cut leaves
        payload = encode(entries)
        added_bytes = FRAME_HEADER.size + len(payload)
        if self.size_bytes + added_bytes > self._max_bytes:
            raise SpoolError(f"{self.directory} is full: it holds {self.size_bytes} bytes of {self._max_bytes} allowed")
        if self._active.size_bytes >= self._segment_bytes or not self._active_is_usable:
            self._roll()
        try:
            self._active.append(payload, len(entries))
        except SpoolError:
            self._active_is_usable = self._active.is_intact()
            raise
        self.appended_records += len(entries)

    def take_over(self, orphans: Sequence[Segment]) -> None:
        """Make segments whose process is gone part of this spool, in order of age."""
        if orphans:
            num_records = sum(segment.pending_records for segment in orphans)
            self.appended_records += num_records
            self.adopted_records += num_records
            self._sealed.insert(orphans)
            _log.info("adopted %d spool segments with %d records", len(orphans), num_records)

    def read(self, max_records: int, max_bytes: int) -> Batch | None:
        """The oldest batch, None if there is none; the same one again until it is acknowledged.

        A payload that does not consist of lines is set aside as rejected.

        A segment that cannot be read is left alone, so that it does not hold up the others: it is an orphan now.

        Raises:
            SpoolError: it was the one that is written to, and there cannot be another.
        """
        while self._unacknowledged is None:
            self._sealed.delete_finished()
            segment = self._sealed.oldest or self._active
            if segment.read_offset == segment.size_bytes:
                break
            try:
                payloads, num_records, end = segment.read(max_records, max_bytes)
            except OSError as error:
                _log.error("cannot read %s: %s", segment.path, error)
                self._abandon(segment)
                continue
            batch = Batch(tuple(self._lines(payloads)), num_records, segment, end)
            if batch.payloads:
                self._unacknowledged = batch
            else:
                self._forget(batch)
        return self._unacknowledged

    def acknowledge(self, batch: Batch) -> None:
        """Forget the batch that `read` returned last: PostgreSQL has it, or it was rejected."""
        assert batch is self._unacknowledged, "only the batch read last can be acknowledged"
        self._unacknowledged = None
        self._forget(batch)
        self._sealed.delete_finished()

    def close(self) -> None:
        """Give up all segments; those with records left wait for the next process, the others are deleted."""
        for segment in (*self._sealed, self._active):
            if segment.read_offset < segment.size_bytes:
                segment.close()
                continue
            try:
                segment.delete()
            except SpoolError as error:
                _log.warning("%s; its records will be shipped once more", error)

    def _new_segment(self) -> Segment:
        while True:
            segment = Segment.create(self.directory / f"{new_id().hex}{SUFFIX}")
            if segment is not None:
                return segment

    def _roll(self) -> None:
        segment = self._new_segment()
        self._sealed.add(self._active)
        self._active = segment
        self._active_is_usable = True

    def _abandon(self, segment: Segment) -> None:
        """Give up a segment with all that is in it, the oldest one."""
        if segment is self._active:
            self._roll()
        self.settled_records += segment.pending_records
        self._sealed.pop_oldest().close()

    def _forget(self, batch: Batch) -> None:
        before = batch.segment.pending_records
        batch.segment.acknowledge(batch.num_records, batch.end_offset)
        self.settled_records += before - batch.segment.pending_records

    def _lines(self, payloads: Sequence[bytes]) -> Iterator[bytes]:
        for payload in payloads:
            if payload.endswith(b"\n"):
                yield payload
            else:  # it would spoil the first line of the one behind it
                self.rejected.add_payload(payload, "not a record: there is no line end")
