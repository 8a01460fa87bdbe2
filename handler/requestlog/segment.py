"""One file of the spool, owned by one process through `flock`: frames of [marker | length | crc32 | records | payload].

Of records it knows how many a payload holds: those that were appended together, and are there all or not at all. The
checksum is that of the payload, begun with their number. A segment belongs to the thread that appends to it or reads
it, one at a time. The kernel releases the lock when its process dies, however it dies; that is how others learn that a
segment is an orphan.

The marker is four bytes that each frame of this segment begins with: behind bytes that make no sense, a flipped bit
in a length for instance, the next frame is where marker, length and checksum fit again. It comes from the random part
of the file's name, so that nobody can send a prompt that reads like a frame.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from handler.errors import SpoolError

SUFFIX = ".spool"
FRAME_HEADER = struct.Struct("<4sIII")
_CHUNK_BYTES = 1024 * 1024
_log = logging.getLogger(__name__)


class Segment:
    """An open and locked segment. Frames before `read_offset` have been acknowledged.

    Attributes:
        path: the file; names sort by age.
        size_bytes: where the last whole frame ends.
        read_offset: where the first frame that still counts begins.
        pending_records: in the frames from there on.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.size_bytes = 0
        self.read_offset = 0
        self.pending_records = 0
        self._descriptor = descriptor
        self._marker = zlib.crc32(path.name.encode()).to_bytes(4, "little")

    @classmethod
    def create(cls, path: Path) -> Segment | None:
        """A new, empty segment, or None where another process adopted the file before it was locked.

        Raises:
            SpoolError: the file cannot be created, or the file system knows no locks.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolError(f"cannot create {path}: {error}") from error
        return cls(path, descriptor) if _lock(descriptor, path) else None

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """The segment of a process that is gone, its frames counted; None while somebody owns it.

        What follows the last whole frame is left out with a warning: the process died while it wrote.

        Raises:
            SpoolError: the file cannot be read.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        except FileNotFoundError:
            return None  # its owner has shipped and deleted it since the directory was listed
        except OSError as error:
            raise SpoolError(f"cannot open {path}: {error}") from error
        if not _lock(descriptor, path):
            return None
        segment = cls(path, descriptor)
        try:
            segment._count_frames()
        except OSError as error:
            segment.close()
            raise SpoolError(f"cannot read {path}: {error}") from error
        return segment

    def append(self, payload: bytes, records: int) -> None:
        """Write one frame behind all others.

        Raises:
            SpoolError: the frame is not there, and nothing of it is.
        """
        frame = FRAME_HEADER.pack(self._marker, len(payload), zlib.crc32(payload, records), records) + payload
        try:
            write_whole(self._descriptor, frame)
        except OSError as error:
            # A part of a frame would hide all later ones from whoever reads them.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size_bytes)
            raise SpoolError(f"cannot append to {self.path}: {error}") from error
        self.size_bytes += len(frame)
        self.pending_records += records

    def is_intact(self) -> bool:
        """Whether the file ends where its last whole frame does, so that another frame may follow."""
        try:
            return os.fstat(self._descriptor).st_size == self.size_bytes
        except OSError:  # it is closed, or its file system is gone
            return False

    def read(self, max_records: int, max_bytes: int) -> tuple[list[bytes], int, int]:
        """The payloads of the next frames, their number of records, and the offset behind them; at least one frame.

        Bytes that are no whole frame are passed over with a warning.
        """
        payloads: list[bytes] = []
        num_records = 0
        end = start = self.read_offset
        for payload, records, frame_start, frame_end in self._frames():
            if payloads and (num_records + records > max_records or frame_end - start > max_bytes):
                break
            self._warn_of_gap(end, frame_start)
            payloads.append(payload)
            num_records += records
            end = frame_end
        else:
            self._warn_of_gap(end, self.size_bytes)
            end = self.size_bytes
        return payloads, num_records, end

    def acknowledge(self, records: int, end: int) -> None:
        """Forget so many records, up to offset `end`. A segment with nothing else left is emptied on disk."""
        self.read_offset = end
        self.pending_records -= records
        if end == self.size_bytes:
            self.pending_records = 0
            try:
                os.ftruncate(self._descriptor, 0)
            except OSError as error:  # the frames stay on disk: at worst they are shipped once more
                _log.warning("cannot empty spool segment %s: %s", self.path.name, error)
                return
            self.read_offset = self.size_bytes = 0

    def delete(self) -> None:
        """Remove the file, then give up the lock: in this order nobody adopts what is already stored.

        Raises:
            SpoolError: the file is still there; the lock is given up all the same.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise SpoolError(f"cannot delete {self.path}: {error}") from error
        finally:
            self.close()

    def close(self) -> None:
        """Give up the lock; whoever starts next adopts what is left."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _frames(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Each whole frame from `read_offset` on: its payload, their number of records, where it begins and ends."""
        offset = chunk_offset = self.read_offset
        chunk = b""
        wanted = FRAME_HEADER.size
        while offset + FRAME_HEADER.size < self.size_bytes:
            if offset + wanted > chunk_offset + len(chunk):
                chunk_offset = offset
                chunk = os.pread(self._descriptor, min(max(wanted, _CHUNK_BYTES), self.size_bytes - offset), offset)
                if len(chunk) < wanted:
                    return  # somebody has cut the file
            begin = offset - chunk_offset
            marker, length, checksum, records = FRAME_HEADER.unpack_from(chunk, begin)
            wanted = FRAME_HEADER.size + length
            if marker == self._marker and length and offset + wanted <= self.size_bytes:
                if begin + wanted > len(chunk):
                    continue  # with a chunk that holds all of it
                payload = chunk[begin + FRAME_HEADER.size : begin + wanted]
                if zlib.crc32(payload, records) == checksum:
                    yield payload, records, offset, offset + wanted
                    offset += wanted
                    wanted = FRAME_HEADER.size
                    continue
            wanted = FRAME_HEADER.size
            found = chunk.find(self._marker, begin + 1)
            offset = chunk_offset + (found if found >= 0 else max(begin + 1, len(chunk) - len(self._marker) + 1))

    def _count_frames(self) -> None:
        """Find out what is in the file, and where the last whole frame ends."""
        end = 0
        file_bytes = self.size_bytes = os.fstat(self._descriptor).st_size
        for _, records, _, frame_end in self._frames():
            end = frame_end
            self.pending_records += records
        self.size_bytes = end
        self._warn_of_gap(end, file_bytes)

    def _warn_of_gap(self, start: int, end: int) -> None:
        if start < end:
            _log.warning("spool segment %s: dropped %d bytes that are no whole frame", self.path.name, end - start)


def write_whole(descriptor: int, data: bytes) -> None:
    """Write `data` by one `write`, so that a reader never sees others' bytes in the middle of it.

    Raises:
        OSError: all or a part of it was not written.
    """
    written = os.write(descriptor, data)
    if written != len(data):
        raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written")


def _lock(descriptor: int, path: Path) -> bool:
    """Lock an open file; False, and closed, if another process has it or has deleted it meanwhile."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            return False
        raise SpoolError(f"cannot lock {path}: {error}") from error
    if os.fstat(descriptor).st_nlink == 0:
        os.close(descriptor)
        return False
    return True
