"""The one task that empties the spool into PostgreSQL, in rounds, and tries again for as long as it has to.

Knows no SQL, and neither who submits records nor what becomes of them at the end. Event loop; importing the driver
happens in a worker thread.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from handler.requestlog.adoption import Adoption
from handler.requestlog.failure import describe_failure
from handler.requestlog.spool import Spool

if TYPE_CHECKING:
    from handler.requestlog.database import LogDatabase

UrlProvider = Callable[[], Awaitable[str]]

FIRST_PAUSE_S = 0.1

_log = logging.getLogger(__name__)


class Shipping(msgspec.Struct, frozen=True, kw_only=True):
    """How records are shipped.

    Attributes:
        pool_size: connections at most; a backlog is shipped over all of them.
        batch_records: records in one transaction, about.
        batch_bytes: of spooled bytes in one transaction, about.
        interval_s: least time between two rounds of shipping, so that records of a busy time share a transaction;
            after a quiet time a record is shipped at once.
        connect_timeout_s: for an attempt to connect.
        statement_timeout_s: for each statement.
        longest_pause_s: between two attempts.
        adoption_interval_s: between two looks for what other processes, dead by now, left in the same directory.
    """

    pool_size: int = 4
    batch_records: int = 2000
    batch_bytes: int = 1024 * 1024
    interval_s: float = 1.0
    connect_timeout_s: float = 10.0
    statement_timeout_s: float = 30.0
    longest_pause_s: float = 15.0
    adoption_interval_s: float = 60.0


class Shipper:
    """Reads, writes and acknowledges; whoever appends to the spool sets `spooled`.

    Args:
        spool: what is to be emptied.
        url: the database; or what yields its URL when awaited, asked again before each attempt to connect; or None,
            then every record stays.
        shipping: in which batches, and after which pauses.

    Attributes:
        spooled: set when there may be something to ship.
        database: while the last thing heard from it was good.
        rows_written_total: rows that PostgreSQL took and did not have before.
        rejected_total: records that PostgreSQL refused and that were set aside.
        last_error: why records cannot be shipped now, fit for a log; None while they can.
    """

    def __init__(self, spool: Spool, url: str | UrlProvider | None, shipping: Shipping) -> None:
        self.spooled = asyncio.Event()
        self.database: LogDatabase | None = None
        self.rows_written_total = 0
        self.rejected_total = 0
        self.last_error: str | None = None
        self._spool = spool
        self._url = url
        self._shipping = shipping
        self._interval_s = shipping.interval_s
        self._adoption = Adoption(spool, shipping.adoption_interval_s)
        self._attempts = 0
        self._flushers = 0
        self._closing = False
        self._hurried = asyncio.Event()  # somebody waits in flush
        self._settled = asyncio.Event()  # a batch has left the spool

    def stop(self) -> LogDatabase | None:
        """Begin nothing new, and hand over the database, for the caller to close.

        To cancel `run` is not enough to end it: the driver may turn that into an error of its own.
        """
        self._closing = True
        database, self.database = self.database, None
        return database

    async def run(self) -> None:
        """Empty the spool, and go on whatever the database does, until `stop`; without one, only see what is there."""
        if self._url is None:
            await self._adoption.look()
        else:
            await self._run(self._url)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything submitted so far has left the spool: written, or refused and set aside.

        Returns:
            False if that took longer than `timeout_s`.
        """
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

    async def _run(self, url: str | UrlProvider) -> None:
        while not self._closing:
            known_url = url if isinstance(url, str) else None
            try:
                if not self._adoption.has_looked.is_set():
                    await self._adoption.look()
                known_url = url if isinstance(url, str) else await url()
                self.database = await self._connect(known_url)
                self.last_error = None
                await self._ship(self.database)
            except Exception as error:  # noqa: BLE001 - whatever it is, the records are safe and the next attempt may work
                self.last_error = describe_failure(error, known_url)
            if self.database is not None:
                self.database.terminate()
                self.database = None
            if not self._closing:
                await self._pause()

    async def _connect(self, url: str) -> LogDatabase:
        # The driver takes 40 ms to import: not before the function listens, and not on the event loop.
        module = await asyncio.to_thread(importlib.import_module, "handler.requestlog.database")
        database_class: type[LogDatabase] = module.LogDatabase
        return await database_class.open(
            url,
            pool_size=self._shipping.pool_size,
            connect_timeout_s=self._shipping.connect_timeout_s,
            timeout_s=self._shipping.statement_timeout_s,
        )

    async def _ship(self, database: LogDatabase) -> None:
        shipping = self._shipping
        window = shipping.batch_records * shipping.pool_size, shipping.batch_bytes * shipping.pool_size
        while not self._closing:
            round_end_s = time.monotonic() + self._interval_s
            self.spooled.clear()
            while (batch := self._spool.read(*window)) is not None:
                written = await database.write(_transactions(batch.payloads, shipping.batch_bytes))
                for line, reason in written.refused:
                    self._spool.rejected.add_line(line, reason)
                self._spool.acknowledge(batch)
                self.rows_written_total += written.new_rows
                self.rejected_total += len(written.refused)
                self._attempts = 0
                self._settled.set()
                if self._adoption.due_in_s <= 0:
                    break  # where many requests come the spool is never empty
            self._settled.set()  # what the spool set aside or gave up by itself has left it as well
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
                await self.spooled.wait()
        except TimeoutError:
            return True
        return self._adoption.due_in_s <= 0

    async def _pause(self) -> None:
        """Wait before the next attempt: twice as long each time up to a limit, not in step with others."""
        limit_s = min(FIRST_PAUSE_S * 2 ** min(self._attempts, 20), self._shipping.longest_pause_s)
        pause_s = random.uniform(limit_s / 2, limit_s)  # noqa: S311 - jitter, no secret
        self._attempts += 1
        _log.warning(
            "request log: %s; %d records spooled, next attempt in %.1f s",
            self.last_error, self._spool.pending_records, pause_s,
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
