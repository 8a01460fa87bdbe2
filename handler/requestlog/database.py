"""The PostgreSQL end of the request log: a pool, the schema, and how lines of JSON become rows.

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

from handler.requestlog.facts import CLOCK_PER_S
from handler.requestlog.migrations import Connection, migrate
from handler.requestlog.record import COLUMNS, Status
from handler.requestlog.transaction import limits

_COLUMN_LIST = ", ".join(COLUMNS)
_CLOSE_S = 1.0

_STAGE = "create temp table request_logs_staging (line json) on commit drop"
# Quotes and delimiters that JSON cannot contain, so that lines need not be searched for what would have to be escaped.
_QUOTE, _DELIMITER = "\x01", "\x02"
_TYPES = {
    **dict.fromkeys(("salt", "status"), "text"),
    **dict.fromkeys(("created_s", "start_s", "end_s", "first_scheduled_s", "first_token_s"), "double precision"),
    **dict.fromkeys(("queue_ms", "ttft_ms", "duration_ms"), "double precision"),
    **dict.fromkeys(("http_status", "prompt_tokens", "cached_tokens", "completion_tokens", "total_tokens"), "integer"),
    **dict.fromkeys(("stream", "cold_start"), "boolean"),
    **dict.fromkeys(("metadata", "prompt"), "jsonb"),
    "id": "uuid",
    "created_at": "timestamptz",
}
_FIELDS = ", ".join(f"{name} {_TYPES.get(name, 'text')}" for name in dict.fromkeys((*COLUMNS, *_TYPES)))
# What follows from a request's facts, as `Facts.to_record` has it.
_CLOCK = f"floor(created_s * {CLOCK_PER_S})::bigint"
_TIME = f"lpad(to_hex({_CLOCK} >> 12), 12, '0') || '7' || lpad(to_hex({_CLOCK} & 4095), 3, '0')"
_DERIVED = {
    "id": f"({_TIME} || '8' || salt)::uuid",
    "created_at": "to_timestamp(created_s)",
    "status": f"'{Status.SUCCESS}'",
    "total_tokens": "prompt_tokens + completion_tokens",
    "queue_ms": "(first_scheduled_s - start_s) * 1000",
    "ttft_ms": "(first_token_s - start_s) * 1000",
    "duration_ms": "(end_s - start_s) * 1000",
}
_VALUES = ", ".join(f"coalesce({name}, {_DERIVED[name]})" if name in _DERIVED else name for name in COLUMNS)
# By the fields' names: absent ones are null, those that are unknown are left out.
_INSERT = (
    f"insert into request_logs ({_COLUMN_LIST}) select {_VALUES}"  # noqa: S608 - constants
    f" from request_logs_staging, json_to_record(line) as fields ({_FIELDS})"
    " on conflict (id) do nothing"
)
# A row like any other, which every table that is ours takes.
_PROBE = (
    "insert into request_logs (id, request_id, created_at, endpoint, status, model_name, stream, http_status,"
    " finish_reason, error_type, error_message, prompt_tokens, duration_ms, cold_start, instance_id, metadata)"
    " values (gen_random_uuid(), '0123456789abcdef0123456789abcdef', now(), '/v1/chat/completions', 'cancelled',"
    " 'smollm2-135m', true, 499, 'tool_calls', 'ClientDisconnectedError', 'the client has disconnected', 1234, 1.5,"
    " false, '0123456789ab', '{}')"
)


class Written(msgspec.Struct, frozen=True):
    """What became of a batch: rows that are new, and lines that PostgreSQL refuses for what they hold."""

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
                await self._probe(connection)
                return Written(0, ((lines, f"{type(error).__name__}: {error}"),))
        middle = len(each) // 2
        first = await self._write_or_bisect(connection, b"".join(each[:middle]))
        return _sum(first, await self._write_or_bisect(connection, b"".join(each[middle:])))

    async def _probe(self, connection: Connection) -> None:
        """Make sure that it was the record's fault, and not that of a table which takes no row at all."""
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(limits(self._timeout_s) + _PROBE)
        finally:
            await transaction.rollback()

    async def _write(self, connection: Connection, lines: bytes) -> int:
        async with connection.transaction():
            await connection.execute(limits(self._timeout_s) + _STAGE)
            await connection.copy_to_table(
                "request_logs_staging", source=_whole(lines), format="csv", quote=_QUOTE, delimiter=_DELIMITER
            )
            done = await connection.execute(_INSERT)
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
