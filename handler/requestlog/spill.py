"""The last way out for records that no database takes and no disk will keep: a JSON line each on a descriptor.

Blocks, but never past its deadline: whoever should read the other end of a pipe may have stopped.
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import select
import time
from collections.abc import Iterator

import msgspec

from handler.errors import SpoolError
from handler.requestlog.line import decode
from handler.requestlog.record import Record
from handler.requestlog.spool import Batch, Spool

MESSAGE = "request log record not shipped"
"""What tells these lines from others: `message`, as the function's own log has it."""
_BATCH_RECORDS = 1000
_BATCH_BYTES = 256 * 1024

_log = logging.getLogger(__name__)


def spill(spool: Spool, descriptor: int, timeout_s: float) -> None:
    """Write a line for each record of `spool`, with a field for each column, and forget what was written.

    What is not written within `timeout_s`, or because nobody reads, stays in the spool, with a warning. At worst a
    record is in a line and stays as well.
    """
    deadline_s = time.monotonic() + timeout_s
    spilled = 0
    try:
        while (batch := spool.read(_BATCH_RECORDS, _BATCH_BYTES)) is not None:
            _write(b"".join(_spilled(spool, batch)), descriptor, deadline_s)
            spool.acknowledge(batch)
            spilled += batch.num_records
    except (OSError, SpoolError) as error:
        _log.warning("request log records cannot be written to descriptor %d: %s", descriptor, error)
    if spilled:
        _log.warning("request log closed with %d records written to descriptor %d", spilled, descriptor)


def _spilled(spool: Spool, batch: Batch) -> Iterator[bytes]:
    for line in b"".join(batch.payloads).splitlines():
        try:
            yield _line(decode(line))
        except SpoolError as error:
            spool.reject(line, str(error))


def _write(data: bytes, descriptor: int, deadline_s: float) -> None:
    rest = memoryview(data)
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while rest:
        left_s = deadline_s - time.monotonic()
        if left_s <= 0 or not poll.poll(left_s * 1000):
            raise TimeoutError("nobody reads it fast enough")
        # A pipe that is ready takes so much without blocking.
        rest = rest[os.write(descriptor, rest[: select.PIPE_BUF]) :]


def _line(record: Record) -> bytes:
    head = {
        "time": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds"),
        "level": "warning",
        "logger": __name__,
        "message": MESSAGE,
    }
    return msgspec.json.encode(head | msgspec.structs.asdict(record)) + b"\n"
