from __future__ import annotations

import asyncio

import asyncpg
import pytest

from handler.errors import ConfigurationError
from handler.requestlog.migrations import MIGRATIONS, migrate
from handler.requestlog.record import COLUMNS


async def versions(connection: asyncpg.Connection) -> list[int]:
    rows = await connection.fetch("select version from pilotlight_schema_version order by version")
    return [row["version"] for row in rows]


async def test_migrating_twice_changes_nothing(connection):
    assert await migrate(connection) == len(MIGRATIONS)
    assert await migrate(connection) == 0
    assert await versions(connection) == list(range(1, len(MIGRATIONS) + 1))


async def test_the_table_has_the_columns_of_a_record_and_one_of_its_own(log_connection):
    rows = await log_connection.fetch(
        "select column_name from information_schema.columns where table_name = 'request_logs'"
    )
    assert {row["column_name"] for row in rows} == {*COLUMNS, "written_xid"}


async def test_instances_that_start_together_take_turns(postgres_url):
    connections = [await asyncpg.connect(postgres_url) for _ in range(6)]
    try:
        done = await asyncio.gather(*(migrate(connection) for connection in connections))
        assert sorted(done) == [0] * 5 + [len(MIGRATIONS)]
        assert await versions(connections[0]) == list(range(1, len(MIGRATIONS) + 1))
    finally:
        for connection in connections:
            await connection.close()


async def test_only_what_is_missing_is_applied(log_connection):
    more = (*MIGRATIONS, "create table extra (a integer)")
    assert await migrate(log_connection, more) == 1
    assert await versions(log_connection) == list(range(1, len(more) + 1))


async def test_a_failing_migration_leaves_no_trace(connection):
    with pytest.raises(asyncpg.PostgresError):
        await migrate(connection, ("create table first (a integer)", "create tabel second"))
    assert await connection.fetchval("select to_regclass('first')") is None
    assert await connection.fetchval("select to_regclass('pilotlight_schema_version')") is None


async def test_a_newer_database_is_refused(log_connection):
    await log_connection.execute("insert into pilotlight_schema_version (version) values (99)")
    with pytest.raises(ConfigurationError, match="schema version 99") as error:
        await migrate(log_connection)
    assert error.value.key == "DATABASE_URL"


async def test_a_role_that_may_only_write_the_log_passes(log_connection):
    await log_connection.execute(
        "create role writer; grant select on pilotlight_schema_version to writer; set role writer"
    )
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await log_connection.execute("create table t (a integer)")
        assert await migrate(log_connection) == 0
    finally:
        await log_connection.execute("reset role; drop owned by writer; drop role writer")
