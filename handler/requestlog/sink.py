"""Where the function hands its records: kept in the spool at once, shipped to PostgreSQL in the background.

Owns the spool and the life of the task that empties it. Knows no SQL and no HTTP. Everything runs on the event loop.
The database may be absent at any time, at the start too: records wait in the spool while the task tries again, with
growing pauses. At the end they wait for the next process, or leave as lines where there is no hope that one will find
them.
"""

from __future__ import annotations

import asyncio
import logging

from handler.requestlog.line import Entry
from handler.requestlog.shipper import Shipper, Shipping, UrlProvider
from handler.requestlog.spill import spill
from handler.requestlog.spool import Spool

SPILL_TIMEOUT_S = 5.0
_TASK_END_S = 1.0

_log = logging.getLogger(__name__)


class LogSink:
    """The request log as the function sees it.

    Args:
        spool: owned by this sink from now on.
        url: as `Shipper` takes it; None: the spool is all there is and keeps every record.
        shipping: in which batches records leave, and after which pauses.
        spill_descriptor: takes what is left at `close`, a JSON line for each record; None leaves it in the spool.
        spill_timeout_s: for all of that.
    """

    def __init__(
        self,
        spool: Spool,
        url: str | UrlProvider | None,
        *,
        shipping: Shipping | None = None,
        spill_descriptor: int | None = None,
        spill_timeout_s: float = SPILL_TIMEOUT_S,
    ) -> None:
        """Prepare; nothing happens before `start`."""
        self._spool = spool
        self._has_database = url is not None
        self._shipper = Shipper(spool, url, shipping or Shipping())
        self._spooled = self._shipper.spooled
        self._spill_descriptor = spill_descriptor
        self._spill_timeout_s = spill_timeout_s
        self._task: asyncio.Task[None] | None = None

    @property
    def rows_written_total(self) -> int:
        """Rows that PostgreSQL took and did not have before."""
        return self._shipper.rows_written_total

    @property
    def rejected_total(self) -> int:
        """Records that PostgreSQL refused and that were set aside."""
        return self._shipper.rejected_total

    @property
    def last_error(self) -> str | None:
        """Why records cannot be shipped now, fit for a log; None while they can."""
        return self._shipper.last_error

    @property
    def spooled_records(self) -> int:
        """Records that PostgreSQL does not have yet."""
        return self._spool.pending_records

    @property
    def spool_bytes(self) -> int:
        """What they take on disk, with what was shipped and not yet deleted."""
        return self._spool.size_bytes

    @property
    def connected(self) -> bool:
        """Whether the last thing heard from the database was good."""
        return self._shipper.database is not None

    async def start(self) -> None:
        """Begin to ship. Returns at once, whatever the database does."""
        self._task = asyncio.create_task(self._shipper.run(), name="request-log")

    def submit(self, *entries: Entry) -> None:
        """Keep a record for each entry. When this returns, they survive the end of this process.

        Raises:
            SpoolError: they could not be kept, and nothing of them was.
        """
        self._spool.append(*entries)
        self._spooled.set()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything submitted so far has left the spool: written, or refused and set aside.

        Returns:
            False if that took longer than `timeout_s`. True at once where there is no database to write to.
        """
        if self._task is None or not self._has_database:
            return not self._has_database
        return await self._shipper.flush(timeout_s)

    async def close(self, timeout_s: float) -> bool:
        """Flush for `timeout_s` at most, then stop; what is left waits on disk for the next process, or is spilled.

        Takes at most about two seconds more than `timeout_s`, however the database behaves, and `spill_timeout_s`.

        Returns:
            What `flush` returned.
        """
        flushed = await self.flush(timeout_s)
        database = self._shipper.stop()
        if database is not None and not flushed:
            database.terminate()  # or the cancellation below would wait for a server that does not answer
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=_TASK_END_S)
        if database is not None:
            await database.close()
        if not flushed:
            if self._spill_descriptor is not None:
                spill(self._spool, self._spill_descriptor, self._spill_timeout_s)
            if self.spooled_records:
                _log.warning("request log closed with %d records left in the spool", self.spooled_records)
        self._spool.close()
        return flushed
