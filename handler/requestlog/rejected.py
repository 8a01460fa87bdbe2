"""`rejected.jsonl`: what PostgreSQL will never take, one JSON object per line, for a human to read.

Nothing here reads or removes it. Knows no spool. All processes that share the directory append to the same file.
"""

from __future__ import annotations

import base64
import errno
import logging
import os
from pathlib import Path

import msgspec

from handler.errors import SpoolError
from handler.logs import FIELDS
from handler.requestlog.line import decode
from handler.requestlog.segment import write_whole

REJECTED = "rejected.jsonl"
REJECTED_BYTES = 64 * 1024 * 1024

_log = logging.getLogger(__name__)


class RejectedFile:
    """The file in one directory; it is there once something was rejected.

    Args:
        directory: of the spool.
        max_bytes: what the file may hold.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self._path = directory / REJECTED
        self._max_bytes = max_bytes

    def add_line(self, line: bytes, reason: str) -> None:
        """Set aside a line of the spool that PostgreSQL refuses for what it holds."""
        try:
            record = decode(line)
        except SpoolError as error:
            self.add_payload(line, f"{error}; {reason}")
            return
        _log.error("request log record %s rejected: %s", record.id, reason)
        self._add({"error": reason, "record": record})

    def add_payload(self, payload: bytes, reason: str) -> None:
        """Set aside bytes of the spool that are no record."""
        _log.error("spooled bytes rejected: %s", reason)
        self._add({"error": reason, "payload": base64.b64encode(payload).decode()})

    def _add(self, entry: dict[str, object]) -> None:
        """Keep it here, or in the function's own log where the file is full or the disk is."""
        try:
            self._append(msgspec.json.encode(entry) + b"\n")
        except OSError as error:  # what cannot be set aside must not hold up what can be shipped, which frees the disk
            fields = msgspec.to_builtins(entry) | {"cause": f"cannot write {self._path}: {error}"}
            _log.error("rejected record not set aside", extra={FIELDS: fields})

    def _append(self, data: bytes) -> None:
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if size_bytes + len(data) > self._max_bytes:
                raise OSError(errno.EFBIG, f"it holds {size_bytes} bytes of {self._max_bytes} allowed")
            if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
                data = b"\n" + data  # the line before was cut off by a full disk
            write_whole(descriptor, data)
        finally:
            os.close(descriptor)
