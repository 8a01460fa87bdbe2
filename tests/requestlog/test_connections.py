"""Connections to PostgreSQL that are cut or vanish, at the moments at which it matters."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import asynccontextmanager

import asyncpg
import pytest

from handler.requestlog.adoption import ORPHANS_AT_ONCE, find_orphans
from handler.requestlog.migrations import MIGRATIONS, migrate
from handler.requestlog.shipper import Shipping
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from tests.requestlog.proxy import Fault, Proxy
from tests.requestlog.records import make_record
from tests.requestlog.test_spool import segments
from tests.requestlog.waiting import until
from tests.server import until as look_until


@pytest.fixture
async def proxy(postgres_url):  # of a database that nothing else happens to
    proxy = Proxy(postgres_url)
    async with proxy:
        yield proxy
    proxy.close()


@asynccontextmanager
async def shipping(directory, url, **options):
    sink = LogSink(
        Spool(directory), url, shipping=Shipping(longest_pause_s=0.05, **{"statement_timeout_s": 1.0} | options)
    )
    await sink.start()
    try:
        yield sink
    finally:
        await sink.close(0)


async def waiters(connection: asyncpg.Connection, number: int) -> None:
    """Return when so many server processes wait for a lock in this database."""
    query = (
        "select count(*) from pg_locks where not granted"
        " and database = (select oid from pg_database where datname = current_database())"
    )

    async def look() -> bool | None:
        return True if await connection.fetchval(query) == number else None

    await look_until(look, f"{number} processes wait")


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("words", [b"create temp table", b"COPY", b"insert into request_logs", b"COMMIT"])
async def test_whatever_becomes_of_a_connection_each_record_is_one_row(tmp_path, proxy, log_connection, words, fault):
    async with shipping(tmp_path, proxy.url, pool_size=1) as sink:
        await until(lambda: sink.connected)
        proxy.on(words, fault)
        for number in range(100):
            sink.submit(make_record(number))
        await until(lambda: proxy.hits)
        assert await sink.flush(20)
        assert (sink.spooled_records, sink.rejected_total) == (0, 0)
    rows = await log_connection.fetchrow("select count(*), count(distinct request_id) from request_logs")
    assert tuple(rows) == (100, 100)


async def test_a_commit_whose_answer_was_lost_is_not_repeated(tmp_path, proxy, log_connection):
    async with shipping(tmp_path, proxy.url) as sink:
        await until(lambda: sink.connected)
        proxy.on(b"COMMIT", Fault.LOSE_ANSWER)
        sink.submit(make_record(1))
        assert await sink.flush(20)
        assert proxy.hits == 1
        assert sink.rows_written_total == 0  # as far as it can know
    assert await log_connection.fetchval("select count(*) from request_logs") == 1


async def test_a_function_that_vanishes_while_it_migrates_keeps_nobody_waiting(postgres_url, proxy, connection):
    proxy.on(b"create table request_logs", Fault.VANISH)
    frozen = await asyncpg.connect(proxy.url)
    task = asyncio.create_task(migrate(frozen, timeout_s=0.5))
    await until(lambda: proxy.hits)
    assert await migrate(connection, timeout_s=10) == len(MIGRATIONS)
    frozen.terminate()
    with pytest.raises((OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
        await task


async def test_a_backend_that_nobody_waits_for_any_more_ends_by_itself(tmp_path, postgres_url, log_connection):
    async with log_connection.transaction():
        await log_connection.execute("lock table request_logs in exclusive mode")
        async with shipping(tmp_path, postgres_url, statement_timeout_s=0.5) as sink:
            sink.submit(make_record(1))
            await waiters(log_connection, 1)
            assert sink._shipper.database is not None
            sink._shipper._closing = True  # no further attempt
            sink._shipper.database.terminate()
            await waiters(log_connection, 0)


SCHEMAS = {
    "a column that must be there": ("alter table request_logs add tenant text not null", "tenant drop not null"),
    "a column too narrow": ("alter table request_logs alter status type varchar(3)", "status type text"),
    "a rule of its own": (
        "alter table request_logs add constraint few check (http_status < 300)",
        "alter table request_logs drop constraint few",
    ),
}


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_table_that_takes_no_row_rejects_no_record(tmp_path, postgres_url, log_connection, schema):
    breaking, mending = SCHEMAS[schema]
    if not mending.startswith("alter"):
        mending = f"alter table request_logs alter {mending}"
    await log_connection.execute(breaking)
    async with shipping(tmp_path, postgres_url) as sink:
        for number in range(20):
            sink.submit(make_record(number, http_status=500))
        await until(lambda: sink.last_error)
        assert (sink.rejected_total, sink.spooled_records) == (0, 20)
        await log_connection.execute(mending)
        assert await sink.flush(20)
        assert sink.rejected_total == 0
    assert await log_connection.fetchval("select count(*) from request_logs") == 20


async def test_a_role_that_may_not_create_the_table(tmp_path, postgres_url, connection):
    role = f"role_{secrets.token_hex(8)}"
    await connection.execute(f"create role {role} login")
    try:
        async with shipping(tmp_path, postgres_url.replace("postgres@", f"{role}@")) as sink:
            sink.submit(make_record(1))
            await until(lambda: sink.last_error)
            assert "permission denied" in sink.last_error
            assert sink.spooled_records == 1
            await connection.execute(f"grant create on schema public to {role}")
            assert await sink.flush(20)
            assert sink.last_error is None
    finally:
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")


async def test_what_a_sibling_leaves_later_is_shipped_too(tmp_path, postgres_url, log_connection):
    sibling = Spool(tmp_path)
    sibling.append(make_record(1))
    async with shipping(tmp_path, postgres_url, adoption_interval_s=0.05) as sink:
        sink.submit(make_record(2))
        await until(lambda: sink.rows_written_total == 1)
        sibling.close()
        await until(lambda: sink.rows_written_total == 2)
        assert sink.spooled_records == 0
    assert list(tmp_path.iterdir()) == []


async def test_what_many_dead_processes_left_is_adopted_little_by_little(tmp_path, postgres_url, log_connection):
    for number in range(2 * ORPHANS_AT_ONCE + 3):
        gone = Spool(tmp_path)
        gone.append(make_record(number))
        gone.close()
    spool = Spool(tmp_path)
    orphans = find_orphans(tmp_path)
    assert [segment.path for segment in orphans] == segments(tmp_path)[:ORPHANS_AT_ONCE]
    for segment in orphans:
        segment.close()
    spool.close()
    async with shipping(tmp_path, postgres_url, adoption_interval_s=3600) as sink:
        await until(lambda: sink.rows_written_total == 2 * ORPHANS_AT_ONCE + 3)
        assert len(segments(tmp_path)) == 1


async def test_without_a_database_old_segments_count_as_well(tmp_path):
    gone = Spool(tmp_path)
    gone.append(make_record(1))
    gone.close()
    sink = LogSink(Spool(tmp_path), None)
    await sink.start()
    await until(lambda: sink.spooled_records == 1)
    assert sink.spool_bytes > 0
    assert await sink.close(0)
    assert len(list(tmp_path.iterdir())) == 1


async def test_a_server_with_few_connections_left_takes_a_backlog_over_those(
    tmp_path, postgres_url, log_connection, connection
):
    role = f"role_{secrets.token_hex(8)}"
    await connection.execute(f"create role {role} login connection limit 2")
    await connection.execute(f"grant all on all tables in schema public to {role}")
    try:
        spool = Spool(tmp_path)
        for number in range(500):
            spool.append(make_record(number))
        url = postgres_url.replace("postgres@", f"{role}@")
        sink = LogSink(spool, url, shipping=Shipping(pool_size=4, batch_bytes=10_000, longest_pause_s=0.05))
        await sink.start()
        try:
            assert await sink.flush(10)
            assert sink.rows_written_total == 500
        finally:
            await sink.close(0)
    finally:
        await connection.execute(f"drop owned by {role}")
        await connection.execute(f"drop role {role}")
    assert await log_connection.fetchval("select count(*) from request_logs") == 500
