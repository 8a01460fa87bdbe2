"""The PostgreSQL end of the request log: a pool, the schema, and how batches of lines become rows.

Lines are copied as they are; PostgreSQL takes them apart and works out what follows, in a process of its own. Knows no
spool and no retries: an error leaves, and whoever called decides. Runs on the event loop. Nothing here waits without a
limit. It works behind a pooler in transaction mode: no named statement, no session state.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence

import asyncpg
import msgspec

from handler.requestlog.boot_record import KIND
from handler.requestlog.migrations import Connection, migrate
from handler.requestlog.statements import INSERT_BOOTS, INSERT_REQUESTS, PROBE, PROBE_BOOTS, STAGE, STAGING
from handler.requestlog.transaction import limits

_CLOSE_S = 1.0

# Quotes and delimiters that JSON cannot contain, so that lines need not be searched for what would have to be escaped.
_QUOTE, _DELIMITER = "\x01", "\x02"


class Written(msgspec.Struct, frozen=True):
    """What became of a batch: rows of requests that are new, and lines that PostgreSQL refuses for what they hold."""

    new_rows: int
    refused: tuple[tuple[bytes, str], ...] = ()


class LogDatabase:
    """An open pool on a database whose schema is up to date."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], timeout_s: float) -> None:
        self._pool = pool
        self._timeout_s = timeout_s

    @classmethod
    async def open(cls, url: str, *, pool_size: int, connect_timeout_s: float, timeout_s: float) -> LogDatabase:
        """Connect and migrate. A statement that takes longer than `timeout_s` is cancelled.

        Raises:
            ConfigurationError: the database is newer than this program.
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: it cannot be used now.
        """
        pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=pool_size,
            timeout=connect_timeout_s,
            command_timeout=timeout_s,
            statement_cache_size=0,
            reset=_leave_as_it_is,
            server_settings={"application_name": "pilotlight"},
        )
        try:
            async with pool.acquire(timeout=connect_timeout_s) as connection:
                await migrate(connection, timeout_s=timeout_s)
        except BaseException:
            pool.terminate()
            raise
        return cls(pool, timeout_s)

    async def write(self, batches: Sequence[bytes]) -> Written:
        """Write lines, each batch of them in a transaction; known ids are skipped.

        Over as many connections as there are batches, if the server gives them: where it has not that many left, those
        that it gives do it all. Or instances with a backlog each, after an outage, would keep each other out for good.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: not all could be written;
                those that were do no harm when they are written again.
        """
        waiting = deque(batches)
        unconnected: list[Exception] = []
        workers = [self._write_some(waiting, unconnected) for _ in range(min(len(batches), self._pool.get_max_size()))]
        total = Written(0)
        for outcome in await asyncio.gather(*workers, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            total = _sum(total, outcome)
        if waiting:
            raise unconnected[0]
        return total

    async def close(self) -> None:
        """Take leave of the server if it still answers, else drop the connections."""
        try:
            async with asyncio.timeout(_CLOSE_S):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self.terminate()

    def terminate(self) -> None:
        """Drop all connections at once; a `write` in progress fails."""
        self._pool.terminate()

    async def _write_some(self, waiting: deque[bytes], unconnected: list[Exception]) -> Written:
        """Write batches over one connection while there are any; why there is no connection is noted."""
        try:
            connection = await self._pool.acquire(timeout=self._timeout_s)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            unconnected.append(error)
            return Written(0)
        try:
            total = Written(0)
            while waiting:
                total = _sum(total, await self._write_or_bisect(connection, waiting.popleft()))
            return total
        finally:
            await self._pool.release(connection, timeout=self._timeout_s)

    async def _write_or_bisect(self, connection: Connection, lines: bytes) -> Written:
        try:
            return Written(await self._write(connection, lines))
        except Exception as error:
            if not _is_records_fault(error):
                raise
            each = lines.splitlines(keepends=True)
            if len(each) <= 1:
                await self._probe(connection, lines)
                return Written(0, ((lines, f"{type(error).__name__}: {error}"),))
        middle = len(each) // 2
        first = await self._write_or_bisect(connection, b"".join(each[:middle]))
        return _sum(first, await self._write_or_bisect(connection, b"".join(each[middle:])))

    async def _probe(self, connection: Connection, lines: bytes) -> None:
        """Make sure that it was the record's fault, and not that of a table which takes no row at all."""
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(limits(self._timeout_s) + PROBE + (PROBE_BOOTS if KIND in lines else ""))
        finally:
            await transaction.rollback()

    async def _write(self, connection: Connection, lines: bytes) -> int:
        async with connection.transaction():
            await connection.execute(limits(self._timeout_s) + STAGE)
            await connection.copy_to_table(
                STAGING, source=_whole(lines), format="csv", quote=_QUOTE, delimiter=_DELIMITER
            )
            done = await connection.execute(INSERT_REQUESTS)
            if KIND in lines:
                await connection.execute(INSERT_BOOTS)
        return int(done.rpartition(" ")[2])  # "INSERT 0 42"


async def _whole(lines: bytes) -> AsyncIterator[bytes]:
    """What the driver takes that does not come from a file; in one piece, which is least work."""
    yield lines


async def _leave_as_it_is(connection: Connection) -> None:
    """In place of the driver's reset of session state, of which there is none: it costs a statement for each batch."""


def _is_records_fault(error: Exception) -> bool:
    """Whether PostgreSQL refused what a record holds, so that trying again cannot help.

    By SQLSTATE class: 22 data exception (no JSON, a number out of its column's range), 23 integrity constraint, 54
    program limit (a value too large for an index, nesting too deep).
    """
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in {"22", "23", "54"}


def _sum(one: Written, other: Written) -> Written:
    return Written(one.new_rows + other.new_rows, one.refused + other.refused)
