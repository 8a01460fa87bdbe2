"""The schema of the request log, as numbered migrations that the function applies by itself.

Knows no records. Runs on the event loop, with whatever connection it is given. Instances that start together
take turns by an advisory lock; a migration and the note that it was applied are one transaction. A database
that is already up to date is only read, so that a role without the right to create tables can write the log.

`request_logs.written_xid` is no column of a record: it is the transaction that wrote the row, and lets a
reader that follows the log find rows in the order in which they became visible, however old their
`created_at` is.
"""

from __future__ import annotations

from typing import TypeAlias

import asyncpg

from handler.errors import ConfigurationError
from handler.requestlog.transaction import limits

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

MIGRATIONS: tuple[str, ...] = (
    """
    create table request_logs (
        id                uuid primary key,
        request_id        text not null,
        created_at        timestamptz not null,
        endpoint          text not null,
        status            text not null,
        model_name        text,
        api_key_id        text,
        stream            boolean,
        http_status       integer,
        finish_reason     text,
        error_type        text,
        error_message     text,
        prompt_tokens     integer,
        cached_tokens     integer,
        completion_tokens integer,
        total_tokens      integer,
        queue_ms          double precision,
        ttft_ms           double precision,
        duration_ms       double precision,
        cold_start        boolean,
        instance_id       text,
        metadata          jsonb,
        prompt            jsonb,
        completion        text,
        written_xid       xid8 not null default pg_current_xact_id()
    );
    create index request_logs_created_at on request_logs (created_at desc, id desc);
    create index request_logs_request_id on request_logs (request_id);
    create index request_logs_status on request_logs (status, created_at desc, id desc);
    create index request_logs_written_xid on request_logs (written_xid);
    """,
    """
    create table boots (
        id          uuid primary key,
        instance_id text not null,
        started_at  timestamptz not null,
        version     text not null,
        model_name  text not null,
        image       text,
        devices     jsonb not null default '[]',
        ready_s     double precision,
        error       text,
        is_cold     boolean,
        read_bytes  bigint,
        phases      jsonb not null default '[]'
    );
    create index boots_started_at on boots (started_at desc, id desc);
    """,
)
"""Migration n brings version n - 1 to n. A released one is never edited: add another."""

TIMEOUT_S = 30.0
_ADVISORY_LOCK = 0x70696C6F74  # "pilot"


async def migrate(
    connection: Connection, migrations: tuple[str, ...] = MIGRATIONS, *, timeout_s: float = TIMEOUT_S
) -> int:
    """Bring the database to the last version, and return how many migrations that took.

    A statement, waiting for others included, may take `timeout_s`; so may this process between two.

    Raises:
        ConfigurationError: the database is newer than this program.
    """
    if await _version(connection, len(migrations)) == len(migrations):
        return 0
    async with connection.transaction():
        await connection.execute(limits(timeout_s))
        # Of the transaction, not of the session: it works behind a pooler, and dies with the connection.
        await connection.execute("select pg_advisory_xact_lock($1)", _ADVISORY_LOCK)
        await connection.execute(
            "create table if not exists pilotlight_schema_version"
            " (version integer primary key, applied_at timestamptz not null default now())"
        )
        found = await _version(connection, len(migrations))
        for version, statements in enumerate(migrations[found:], start=found + 1):
            await connection.execute(statements)
            await connection.execute("insert into pilotlight_schema_version (version) values ($1)", version)
    return len(migrations) - found


async def _version(connection: Connection, known: int) -> int:
    if await connection.fetchval("select to_regclass('pilotlight_schema_version')::text") is None:
        return 0
    found = await connection.fetchval("select coalesce(max(version), 0) from pilotlight_schema_version")
    if found > known:
        raise ConfigurationError(
            "DATABASE_URL",
            f"the request log there has schema version {found}, this program knows versions up to {known};"
            " upgrade it, or name another database",
        )
    return int(found)
