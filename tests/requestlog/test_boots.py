"""Boots on their way to PostgreSQL, beside requests."""

from __future__ import annotations

import asyncpg
import msgspec
import pytest

from handler.requestlog.boot_record import BOOT_COLUMNS
from handler.requestlog.database import LogDatabase
from handler.requestlog.line import encode
from handler.requestlog.reader import read_boots, read_logs
from tests.requestlog.records import make_boot, make_record


@pytest.fixture
async def database(log_connection, postgres_url):
    database = await LogDatabase.open(postgres_url, pool_size=1, connect_timeout_s=10, timeout_s=10)
    yield database
    await database.close()


async def test_the_table_has_the_columns_of_a_record(log_connection):
    rows = await log_connection.fetch("select column_name from information_schema.columns where table_name = 'boots'")
    assert {row["column_name"] for row in rows} == set(BOOT_COLUMNS)


async def test_a_boot_among_requests_becomes_a_row_of_its_own_once(database, log_connection):
    unknown = dict.fromkeys(("ready_s", "is_cold", "read_bytes", "image"))
    boot, failed = make_boot(), make_boot(error="no room", devices=[], phases=[], **unknown)
    lines = encode([make_record(1), boot, make_record(2, metadata={"kind": "boot"}), failed])
    assert (await database.write([lines])).new_rows == 2  # of requests
    assert (await database.write([lines])).new_rows == 0
    assert await read_boots(log_connection, 10) == [boot, failed]
    assert await read_boots(log_connection, 1) == [failed]
    assert [record.request_id for record in await read_logs(log_connection, 10)] == ["req-1", "req-2"]


async def test_a_boot_that_no_table_can_hold_is_refused_alone(database, log_connection):
    fields = msgspec.to_builtins(make_boot()) | {"read_bytes": 1 << 80}
    written = await database.write([encode([make_record(1)]) + msgspec.json.encode(fields) + b"\n"])
    assert written.new_rows == 1
    ((line, reason),) = written.refused
    assert b'"kind":"boot"' in line
    assert "out of range" in reason


async def test_a_table_that_takes_no_boot_is_no_fault_of_the_record(database, log_connection):
    await log_connection.execute("alter table boots add check (false)")
    with pytest.raises(asyncpg.CheckViolationError):
        await database.write([encode([make_boot()])])
