from __future__ import annotations

import asyncpg
import pytest

from handler.requestlog.database import LogDatabase
from handler.requestlog.line import encode
from handler.requestlog.reader import LogFollower, read_logs
from handler.requestlog.record import Record, Status, new_id
from tests.requestlog.records import ARRIVAL, full_record, make_record

INSERT = (
    "insert into request_logs (id, request_id, created_at, endpoint, status)"
    " values ($1, $2, $3, '/v1/completions', 'success')"
)


@pytest.fixture
async def database(postgres_url):
    database = await LogDatabase.open(postgres_url, pool_size=2, connect_timeout_s=10, timeout_s=10)
    yield database
    await database.close()


def names(records: list[Record]) -> list[str]:
    return [record.request_id for record in records]


async def test_the_newest_records_newest_last(database, connection):
    await database.write([encode([make_record(number) for number in (3, 1, 4, 2)])])
    assert names(await read_logs(connection, 3)) == ["req-2", "req-3", "req-4"]
    assert await read_logs(connection, 0) == []


async def test_every_column_comes_back(database, connection):
    record = full_record()
    await database.write([encode([record])])
    assert await read_logs(connection, 1) == [record]


async def test_records_of_one_status(database, connection):
    await database.write([encode([make_record(1), make_record(2, status=Status.ERROR), make_record(3)])])
    assert names(await read_logs(connection, 10, Status.ERROR)) == ["req-2"]
    assert names(await read_logs(connection, 10, Status.SUCCESS)) == ["req-1", "req-3"]


async def test_a_database_that_nobody_has_used_is_an_empty_log(connection):
    assert await read_logs(connection, 10) == []
    follower = LogFollower(connection)
    assert await follower.begin(10) == []
    assert await follower.poll() == []


async def test_a_follower_that_came_before_the_table_misses_nothing(connection, postgres_url):
    follower = LogFollower(connection)
    await follower.begin(10)
    database = await LogDatabase.open(postgres_url, pool_size=1, connect_timeout_s=10, timeout_s=10)
    await database.write([encode([make_record(1)])])
    assert names(await follower.poll()) == ["req-1"]
    assert await follower.poll() == []
    await database.close()


async def test_a_follower_reads_each_row_once(database, connection):
    await database.write([encode([make_record(number) for number in range(5)])])
    follower = LogFollower(connection)
    assert names(await follower.begin(2)) == ["req-3", "req-4"]
    assert await follower.poll() == []
    await database.write([encode([make_record(6), make_record(5)])])
    assert names(await follower.poll()) == ["req-5", "req-6"]
    assert await follower.poll() == []


async def test_a_row_older_than_those_shown_is_not_missed(database, connection):
    await database.write([encode([make_record(100)])])
    follower = LogFollower(connection)
    await follower.begin(10)
    await database.write([encode([make_record(1)])])  # it waited in a spool
    assert names(await follower.poll()) == ["req-1"]


async def test_rows_committed_late_are_read_once_when_they_appear(database, connection, postgres_url):
    slow = await asyncpg.connect(postgres_url)
    transaction = slow.transaction()
    await transaction.start()
    await slow.execute(INSERT, new_id(), "late", ARRIVAL)
    await database.write([encode([make_record(1)])])
    follower = LogFollower(connection)
    assert names(await follower.begin(10)) == ["req-1"]
    await database.write([encode([make_record(2)])])
    assert names(await follower.poll()) == ["req-2"]
    assert await follower.poll() == []
    await transaction.commit()
    await slow.close()
    assert names(await follower.poll()) == ["late"]
    await database.write([encode([make_record(3)])])
    assert names(await follower.poll()) == ["req-3"]
    assert await follower.poll() == []
    assert follower._seen.keys() <= {record.id for record in await read_logs(connection, 1)}


async def test_a_follower_of_one_status(database, connection):
    follower = LogFollower(connection, Status.ERROR)
    await follower.begin(10)
    await database.write([encode([make_record(1), make_record(2, status=Status.ERROR)])])
    assert names(await follower.poll()) == ["req-2"]


async def test_rows_of_a_restored_dump_are_not_news(database, connection):
    follower = LogFollower(connection)
    await follower.begin(10)
    await connection.execute(
        "insert into request_logs (id, request_id, created_at, endpoint, status, written_xid)"
        " values ($1, 'restored', now(), '/', 'success', '99999999')",
        new_id(),
    )
    assert await follower.poll() == []
    assert names(await read_logs(connection, 10)) == ["restored"]
