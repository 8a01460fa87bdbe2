"""Rows of the request log, read back for people. Knows no screen. Runs on the event loop, on one connection.

A reader that follows the log cannot go by `created_at`: a row is written after its request, and one that
waited in the spool of a dead instance hours after. It goes by the transaction that wrote the row
(`written_xid`) instead: all transactions older than `pg_snapshot_xmin` were finished when a snapshot was
taken, so a later poll needs only rows written by that transaction or a later one, less those it has seen.
"""

from __future__ import annotations

import uuid
from typing import Any

import asyncpg
import msgspec

from handler.boot import Phase
from handler.requestlog.boot_record import BOOT_COLUMNS, BootRecord
from handler.requestlog.migrations import Connection
from handler.requestlog.record import COLUMNS, Record, Status

_COLUMN_LIST = ", ".join(COLUMNS)
_LAST = (
    f"select {_COLUMN_LIST} from request_logs where $2::text is null or status = $2"  # noqa: S608 - constants
    " order by created_at desc, id desc limit $1"
)
_LAST_BOOTS = f"select {', '.join(BOOT_COLUMNS)} from boots order by started_at desc, id desc limit $1"  # noqa: S608 - constants
# A row that a restored dump brought along carries another cluster's written_xid; its xmin gives it away.
_WRITTEN_SINCE = (
    f"select written_xid::text::bigint as xid, {_COLUMN_LIST} from request_logs"  # noqa: S608 - constants
    " where written_xid >= $1::text::xid8 and xmin = written_xid::xid and ($2::text is null or status = $2)"
    " order by created_at, id"
)
_XMIN = "select pg_snapshot_xmin(pg_current_snapshot())::text::bigint"


async def read_logs(connection: Connection, last: int, status: Status | None = None) -> list[Record]:
    """The newest `last` records, newest last; none where nobody has created the table yet."""
    try:
        rows = await connection.fetch(_LAST, last, status)
    except asyncpg.UndefinedTableError:
        return []
    return [_record(row) for row in reversed(rows)]


async def read_boots(connection: Connection, last: int) -> list[BootRecord]:
    """The newest `last` boots, newest last; none where nobody has created the table yet."""
    try:
        rows = await connection.fetch(_LAST_BOOTS, last)
    except asyncpg.UndefinedTableError:
        return []
    return [_boot(row) for row in reversed(rows)]


class LogFollower:
    """Reads the log as it grows: each row once, none left out, in the order in which rows became visible."""

    def __init__(self, connection: Connection, status: Status | None = None) -> None:
        self._connection = connection
        self._status = status
        self._xmin: int | None = None
        self._seen: dict[uuid.UUID, int] = {}  # written_xid by id, of rows that the next poll finds again

    async def begin(self, last: int) -> list[Record]:
        """The newest `last` records, newest last. Later polls continue from here."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            if await self._connection.fetchval("select to_regclass('request_logs')::text") is None:
                return []  # the first poll that finds the table reads it whole
            self._xmin = await self._connection.fetchval(_XMIN)
            await self._unseen(self._xmin)
            return await read_logs(self._connection, last, self._status)

    async def poll(self) -> list[Record]:
        """The records that became visible since the last call."""
        async with self._connection.transaction(isolation="repeatable_read", readonly=True):
            if await self._connection.fetchval("select to_regclass('request_logs')::text") is None:
                return []
            xmin: int = await self._connection.fetchval(_XMIN)
            fresh = await self._unseen(self._xmin or 0)
        self._xmin = xmin
        self._seen = {key: xid for key, xid in self._seen.items() if xid >= xmin}
        return fresh

    async def _unseen(self, since_xid: int) -> list[Record]:
        rows = await self._connection.fetch(_WRITTEN_SINCE, str(since_xid), self._status)
        fresh = [row for row in rows if row["id"] not in self._seen]
        self._seen.update((row["id"], row["xid"]) for row in fresh)
        return [_record(row) for row in fresh]


def _record(row: asyncpg.Record) -> Record:
    fields: dict[str, Any] = {name: row[name] for name in COLUMNS}
    for name in ("metadata", "prompt"):
        if fields[name] is not None:
            fields[name] = msgspec.json.decode(fields[name])
    fields["id"] = uuid.UUID(int=fields["id"].int)  # the driver has a class of its own
    fields["status"] = Status(fields["status"])
    return Record(**fields)


def _boot(row: asyncpg.Record) -> BootRecord:
    fields: dict[str, Any] = {name: row[name] for name in BOOT_COLUMNS}
    fields["id"] = uuid.UUID(int=fields["id"].int)
    fields["devices"] = msgspec.json.decode(fields["devices"], type=list[str])
    fields["phases"] = msgspec.json.decode(fields["phases"], type=list[Phase])
    return BootRecord(**fields)
