"""The PostgreSQL end of the request log: a pool, the schema, and how records become rows.

Knows no spool and no retries: an error leaves, and whoever called decides. Runs on the event loop. Nothing
here waits without a limit. It works behind a pooler in transaction mode: no named statement, no session
state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import msgspec

from handler.requestlog.migrations import Connection, migrate
from handler.requestlog.record import COLUMNS, Record, storable_json, storable_text
from handler.requestlog.transaction import limits

_JSON_COLUMNS = frozenset({"metadata", "prompt"})
_COLUMN_LIST = ", ".join(COLUMNS)
_CLOSE_S = 1.0

# `with no data` copies the columns' types without their constraints: the insert below is what enforces them.
_STAGE = (
    "create temp table request_logs_staging on commit drop as"  # noqa: S608 - constants
    f" select {_COLUMN_LIST} from request_logs with no data"
)
_INSERT = (
    f"insert into request_logs ({_COLUMN_LIST}) select {_COLUMN_LIST} from request_logs_staging"  # noqa: S608 - constants
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
    """What became of a batch: rows that are new, and records that PostgreSQL refuses for what they hold."""

    new_rows: int
    refused: tuple[tuple[Record, str], ...] = ()


class LogDatabase:
    """An open pool on a database whose schema is up to date."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], pool_size: int, timeout_s: float) -> None:
        self._pool = pool
        self._pool_size = pool_size
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
            server_settings={"application_name": "pilotlight"},
        )
        try:
            async with pool.acquire(timeout=connect_timeout_s) as connection:
                await migrate(connection, timeout_s=timeout_s)
        except BaseException:
            pool.terminate()
            raise
        return cls(pool, pool_size, timeout_s)

    async def write(self, records: Sequence[Record]) -> Written:
        """Write `records`, over as many connections as the pool has; known ids are skipped.

        Raises:
            OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError: not all could be written;
                those that were do no harm when they are written again.
        """
        share = -(-len(records) // self._pool_size)
        if share < 64:  # a transaction costs more than so few rows
            return await self._write_or_bisect(records)
        shares = [records[start : start + share] for start in range(0, len(records), share)]
        outcomes = await asyncio.gather(*map(self._write_or_bisect, shares), return_exceptions=True)
        total = Written(0)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
            total = _sum(total, outcome)
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

    async def _write_or_bisect(self, records: Sequence[Record]) -> Written:
        connection = await self._pool.acquire(timeout=self._timeout_s)
        try:
            return Written(await self._write(connection, records))
        except Exception as error:
            if not _is_records_fault(error):
                raise
            if len(records) == 1:
                await self._probe(connection)
                return Written(0, ((records[0], f"{type(error).__name__}: {error}"),))
        finally:
            await self._pool.release(connection, timeout=self._timeout_s)
        middle = len(records) // 2
        first = await self._write_or_bisect(records[:middle])
        return _sum(first, await self._write_or_bisect(records[middle:]))

    async def _probe(self, connection: Connection) -> None:
        """Make sure that it was the record's fault, and not that of a table which takes no row at all."""
        transaction = connection.transaction()
        await transaction.start()
        try:
            await connection.execute(limits(self._timeout_s) + _PROBE)
        finally:
            await transaction.rollback()

    async def _write(self, connection: Connection, records: Sequence[Record]) -> int:
        rows = [_row(record) for record in records]
        async with connection.transaction():
            await connection.execute(limits(self._timeout_s) + _STAGE)
            await connection.copy_records_to_table("request_logs_staging", records=rows, columns=COLUMNS)
            done = await connection.execute(_INSERT)
        return int(done.rpartition(" ")[2])  # "INSERT 0 42"


def _is_records_fault(error: Exception) -> bool:
    """Whether PostgreSQL refused what a record holds, so that trying again cannot help.

    By SQLSTATE class: 22 data exception, 23 integrity constraint, 54 program limit (a value too large for an
    index). asyncpg's own encoders raise ValueError and OverflowError, for an integer out of the column's
    range for example.
    """
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in {"22", "23", "54"}
    return isinstance(error, (ValueError, OverflowError))


def _row(record: Record) -> tuple[object, ...]:
    return tuple(_cell(name, getattr(record, name)) for name in COLUMNS)


def _cell(column: str, value: object) -> object:
    if value is None:
        return None
    if column in _JSON_COLUMNS:
        return storable_json(value)
    return storable_text(value) if isinstance(value, str) else value


def _sum(one: Written, other: Written) -> Written:
    return Written(one.new_rows + other.new_rows, one.refused + other.refused)
