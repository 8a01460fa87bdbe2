"""Where the function hands its records: kept in the spool at once, shipped to PostgreSQL in the background.

Owns the spool and the one task that empties it. Knows no SQL and no HTTP. Everything runs on the event loop;
importing the driver happens in a worker thread. The database may be absent at any
time, at the start too: records wait in the spool while the task tries again, with growing pauses. At the end
they wait for the next process, or leave as lines where there is no hope that one will find them.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from handler.requestlog.adoption import Adoption
from handler.requestlog.facts import Facts
from handler.requestlog.failure import describe_failure
from handler.requestlog.record import Record
from handler.requestlog.spill import spill
from handler.requestlog.spool import Spool

if TYPE_CHECKING:
    from handler.requestlog.database import LogDatabase

UrlProvider = Callable[[], Awaitable[str]]

BATCH_RECORDS = 2000
BATCH_BYTES = 1024 * 1024
INTERVAL_S = 0.2
CONNECT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 30.0
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 15.0
ADOPTION_INTERVAL_S = 60.0
SPILL_TIMEOUT_S = 5.0
_TASK_END_S = 1.0

_log = logging.getLogger(__name__)


class LogSink:
    """The request log as the function sees it.

    Attributes:
        rows_written_total: rows that PostgreSQL took and did not have before.
        rejected_total: records that PostgreSQL refused and that were set aside.
        last_error: why records cannot be shipped now, fit for a log; None while they can.
    """

    def __init__(
        self,
        spool: Spool,
        url: str | UrlProvider | None,
        *,
        pool_size: int = 4,
        batch_records: int = BATCH_RECORDS,
        batch_bytes: int = BATCH_BYTES,
        interval_s: float = INTERVAL_S,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
        adoption_interval_s: float = ADOPTION_INTERVAL_S,
        spill_descriptor: int | None = None,
        spill_timeout_s: float = SPILL_TIMEOUT_S,
    ) -> None:
        """Prepare; nothing happens before `start`.

        Args:
            spool: owned by this sink from now on.
            url: the database; or what yields its URL when awaited, asked again before each attempt to
                connect; or None, then the spool is all there is and keeps every record.
            pool_size: connections at most; a backlog is shipped over all of them.
            batch_records: records in one transaction, about.
            batch_bytes: of spooled bytes in one transaction, about.
            interval_s: least time between two rounds of shipping, so that records of a busy time share a
                transaction; after a quiet time a record is shipped at once.
            connect_timeout_s: for an attempt to connect.
            statement_timeout_s: for each statement.
            longest_pause_s: between two attempts.
            adoption_interval_s: between two looks for what other processes, dead by now, left in the same directory.
            spill_descriptor: takes what is left at `close`, a JSON line for each record; None leaves it in the spool.
            spill_timeout_s: for all of that.
        """
        self.rows_written_total = 0
        self.rejected_total = 0
        self.last_error: str | None = None
        self._spool = spool
        self._url = url
        self._pool_size = pool_size
        self._window_records = batch_records * pool_size
        self._window_bytes = batch_bytes * pool_size
        self._batch_bytes = batch_bytes
        self._interval_s = interval_s
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._longest_pause_s = longest_pause_s
        self._spill_descriptor = spill_descriptor
        self._spill_timeout_s = spill_timeout_s
        self._adoption = Adoption(spool, adoption_interval_s)
        self._database: LogDatabase | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempts = 0
        self._flushers = 0
        self._closing = False
        self._spooled = asyncio.Event()  # there may be something to ship
        self._hurried = asyncio.Event()  # somebody waits in flush
        self._settled = asyncio.Event()  # a batch has left the spool

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
        return self._database is not None

    async def start(self) -> None:
        """Begin to ship. Returns at once, whatever the database does."""
        work = self._adoption.look() if self._url is None else self._run(self._url)
        self._task = asyncio.create_task(work, name="request-log")

    def submit(self, *entries: Facts | Record) -> None:
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
        if self._task is None or self._url is None:
            return self._url is None
        self._flushers += 1
        self._hurried.set()
        try:
            async with asyncio.timeout(timeout_s):
                await self._adoption.has_looked.wait()
                # What is adopted from now on is older and leaves first, and is not what is waited for.
                num_ours = self._spool.appended_records - self._spool.adopted_records
                while self._spool.settled_records < num_ours + self._spool.adopted_records:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        else:
            return True
        finally:
            self._flushers -= 1
            if not self._flushers:
                self._hurried.clear()

    async def close(self, timeout_s: float) -> bool:
        """Flush for `timeout_s` at most, then stop; what is left waits on disk for the next process, or is spilled.

        Takes at most about two seconds more than `timeout_s`, however the database behaves, and `spill_timeout_s`.

        Returns:
            What `flush` returned.
        """
        flushed = await self.flush(timeout_s)
        database, self._database = self._database, None
        if database is not None and not flushed:
            database.terminate()  # or the cancellation below would wait for a server that does not answer
        self._closing = True
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

    async def _run(self, url: str | UrlProvider) -> None:
        # A cancellation alone does not end this: the driver may turn it into an error of its own.
        while not self._closing:
            known_url = url if isinstance(url, str) else None
            try:
                if not self._adoption.has_looked.is_set():
                    await self._adoption.look()
                known_url = url if isinstance(url, str) else await url()
                self._database = await self._connect(known_url)
                self.last_error = None
                await self._ship(self._database)
            except Exception as error:  # noqa: BLE001 - whatever it is, the records are safe and the next attempt may work
                self.last_error = describe_failure(error, known_url)
            if self._database is not None:
                self._database.terminate()
                self._database = None
            if not self._closing:
                await self._pause()

    async def _connect(self, url: str) -> LogDatabase:
        # The driver takes 40 ms to import: not before the function listens, and not on the event loop.
        module = await asyncio.to_thread(importlib.import_module, "handler.requestlog.database")
        database_class: type[LogDatabase] = module.LogDatabase
        return await database_class.open(
            url,
            pool_size=self._pool_size,
            connect_timeout_s=self._connect_timeout_s,
            timeout_s=self._statement_timeout_s,
        )

    async def _ship(self, database: LogDatabase) -> None:
        while not self._closing:
            round_end_s = time.monotonic() + self._interval_s
            self._spooled.clear()
            while (batch := self._spool.read(self._window_records, self._window_bytes)) is not None:
                written = await database.write(_transactions(batch.payloads, self._batch_bytes))
                for line, reason in written.refused:
                    self._spool.rejected.add_line(line, reason)
                self._spool.acknowledge(batch)
                self.rows_written_total += written.new_rows
                self.rejected_total += len(written.refused)
                self._attempts = 0
                self._settled.set()
                if self._adoption.due_in_s <= 0:
                    break  # where many requests come the spool is never empty
            if await self._waits_long():
                await self._adoption.look()
                continue
            await self._unless_hurried(round_end_s - time.monotonic())

    async def _waits_long(self) -> bool:
        """Wait for something to ship; True when it is time to look for what others left, be there something or not."""
        if self._adoption.may_find_more and not self._spool.pending_records:
            return True
        try:
            async with asyncio.timeout(self._adoption.due_in_s):
                await self._spooled.wait()
        except TimeoutError:
            return True
        return self._adoption.due_in_s <= 0

    async def _pause(self) -> None:
        """Wait before the next attempt: twice as long each time up to a limit, not in step with others."""
        limit_s = min(FIRST_PAUSE_S * 2 ** min(self._attempts, 20), self._longest_pause_s)
        pause_s = random.uniform(limit_s / 2, limit_s)  # noqa: S311 - jitter, no secret
        self._attempts += 1
        _log.warning(
            "request log: %s; %d records spooled, next attempt in %.1f s",
            self.last_error, self.spooled_records, pause_s,
        )  # fmt: skip
        if self._flushers:
            # They count the seconds, but the loop must not spin.
            await asyncio.sleep(min(pause_s, FIRST_PAUSE_S))
        else:
            await self._unless_hurried(pause_s)

    async def _unless_hurried(self, pause_s: float) -> None:
        """Sleep, but not while somebody waits in flush."""
        try:
            async with asyncio.timeout(pause_s):
                await self._hurried.wait()
        except TimeoutError:
            pass


def _transactions(payloads: Sequence[bytes], least_bytes: int) -> list[bytes]:
    """The payloads, joined until they are worth a transaction."""
    transactions: list[bytes] = []
    waiting: list[bytes] = []
    waiting_bytes = 0
    for payload in payloads:
        waiting.append(payload)
        waiting_bytes += len(payload)
        if waiting_bytes >= least_bytes:
            transactions.append(b"".join(waiting))
            waiting, waiting_bytes = [], 0
    return [*transactions, b"".join(waiting)] if waiting else transactions
