from __future__ import annotations

import asyncio
import base64
import itertools
import json
import logging
import secrets
import time
from contextlib import asynccontextmanager

import asyncpg
import psutil
import pytest

from handler.requestlog.embedded import EmbeddedPostgres
from handler.requestlog.line import encode
from handler.requestlog.reader import read_logs
from handler.requestlog.rejected import REJECTED
from handler.requestlog.segment import SUFFIX, Segment
from handler.requestlog.shipper import Shipping
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from tests.requestlog.records import full_record, make_record
from tests.requestlog.waiting import until


@asynccontextmanager
async def running(directory, url, **options):
    """A started sink that is closed at the end, whatever it still holds."""
    sink = LogSink(Spool(directory), url, shipping=Shipping(**options))
    await sink.start()
    try:
        yield sink
    finally:
        await sink.close(0)


async def test_a_record_becomes_a_row_with_every_column(tmp_path, postgres_url, connection):
    record, empty = full_record(), make_record(1)
    async with running(tmp_path, postgres_url) as sink:
        sink.submit(record)
        sink.submit(empty)
        assert await sink.flush(20)
        assert sink.connected
        assert sink.last_error is None
        assert (sink.rows_written_total, sink.spooled_records) == (2, 0)
    assert await read_logs(connection, 10) == [empty, record]


async def test_rows_arrive_without_anybody_flushing(tmp_path, postgres_url):
    async with running(tmp_path, postgres_url) as sink:
        for number in range(3):
            sink.submit(make_record(number))
            await until(lambda written=number + 1: sink.rows_written_total == written)
        assert sink.spooled_records == 0


async def test_after_a_quiet_time_a_record_is_shipped_at_once_and_its_successors_wait(tmp_path, postgres_url):
    async with running(tmp_path, postgres_url, interval_s=0.0) as sink:
        await until(lambda: sink.connected)
        sink._shipper._interval_s = 3600.0
        sink.submit(make_record(1))  # ends a round that has no pause behind it
        await until(lambda: sink.rows_written_total == 1)
        sink.submit(make_record(2))
        sink.submit(make_record(3))
        assert await sink.flush(20)
        assert sink.rows_written_total == 3


async def test_records_shipped_twice_give_one_row(tmp_path, postgres_url, log_connection):
    records = [make_record(number) for number in range(10)]
    written = []
    for name in ("one", "two"):
        async with running(tmp_path / name, postgres_url) as sink:
            for record in records:
                sink.submit(record)
            assert await sink.flush(20)
            assert sink.rejected_total == 0
            written.append(sink.rows_written_total)
    assert written == [10, 0]
    assert await log_connection.fetchval("select count(*) from request_logs") == 10


async def test_a_backlog_is_shared_among_the_connections(tmp_path, postgres_url, log_connection):
    async with running(tmp_path, postgres_url, batch_bytes=10_000, pool_size=3) as sink:
        for number in range(1000):
            sink.submit(make_record(number))
        assert await sink.flush(20)
    assert await log_connection.fetchval("select count(distinct request_id) from request_logs") == 1000
    assert await log_connection.fetchval("select count(distinct written_xid) from request_logs") > 10  # transactions


async def test_what_a_dead_instance_left_is_shipped(tmp_path, postgres_url, log_connection):
    gone = Spool(tmp_path)
    gone.append(make_record(1))
    gone.close()
    async with running(tmp_path, postgres_url) as sink:
        sink.submit(make_record(2))
        assert await sink.flush(20)
        assert sink.rows_written_total == 2


async def test_what_a_dead_instance_left_is_shipped_by_one_that_never_runs_out_of_records(tmp_path, postgres_url):
    class BusySpool(Spool):
        """A record comes with each batch that leaves."""

        def acknowledge(self, batch):
            self.append(make_record(next(numbers)))
            super().acknowledge(batch)

    numbers = itertools.count(2)
    sink = LogSink(BusySpool(tmp_path), postgres_url, shipping=Shipping(adoption_interval_s=0.2))
    await sink.start()
    sink.submit(make_record(1))
    try:
        await until(lambda: sink.rows_written_total)
        known = set(tmp_path.glob(f"*{SUFFIX}"))
        gone = Spool(tmp_path)
        [path] = set(tmp_path.glob(f"*{SUFFIX}")) - known
        gone.append(make_record(0))
        gone.close()
        await until(lambda: not path.exists())
    finally:
        await sink.close(0)


async def test_flushing_waits_for_ones_own_records_whatever_is_adopted_meanwhile(tmp_path, postgres_url):
    async with running(tmp_path, postgres_url, batch_records=1, pool_size=1) as sink:
        await until(lambda: sink.connected)
        gone = Spool(tmp_path)
        gone.append(make_record(1))
        gone.close()
        sink._shipper._adoption._due_s = 0.0
        sink.submit(make_record(2))
        sink.submit(make_record(3))
        assert await sink.flush(20)
        assert sink.spooled_records == 0
        assert sink.rows_written_total == 3


async def test_the_function_serves_before_the_database_is_there(tmp_path, home, caplog):
    embedded = EmbeddedPostgres(home, server_options=["fsync=off"])
    url = await embedded.url()
    await embedded.close()
    try:
        async with running(tmp_path, url, longest_pause_s=0.05) as sink:
            sink.submit(make_record(1))
            await until(lambda: sink.last_error)
            assert not sink.connected
            assert not await sink.flush(0.05)
            assert sink.spooled_records == 1
            await asyncio.to_thread(embedded.start)
            assert await sink.flush(20)
            assert sink.connected
            assert sink.last_error is None
            connection = await asyncpg.connect(url)
            assert [row.request_id for row in await read_logs(connection, 5)] == ["req-1"]
            await connection.close()
    finally:
        await embedded.close()
    assert "next attempt in" in caplog.text


async def test_the_url_may_become_known_later_and_change(tmp_path, postgres_url):
    known = asyncio.Event()
    answers = [OSError("still starting"), "postgresql://postgres@127.0.0.1:1/nobody", postgres_url]

    async def url() -> str:
        await known.wait()
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with running(tmp_path, url, longest_pause_s=0.01) as sink:
        sink.submit(make_record(1))
        assert sink.spooled_records == 1
        known.set()
        assert await sink.flush(20)
        assert len(answers) == 1


async def test_lost_connections_are_replaced(tmp_path, postgres_url, connection):
    async with running(tmp_path, postgres_url, longest_pause_s=0.05) as sink:
        sink.submit(make_record(1))
        assert await sink.flush(20)
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'pilotlight'"
            " and datname = current_database()"
        )
        sink.submit(make_record(2))
        assert await sink.flush(20)
        assert sink.rows_written_total == 2


async def test_records_that_postgres_refuses_are_set_aside_alone(tmp_path, postgres_url, connection, caplog):
    too_long_for_an_index = make_record(request_id=secrets.token_hex(10_000))
    out_of_range = make_record(prompt_tokens=1 << 40)
    records = [make_record(number) for number in range(300)]
    records.insert(20, too_long_for_an_index)
    records.insert(200, out_of_range)
    async with running(tmp_path, postgres_url) as sink:
        for record in records:
            sink.submit(record)
        assert await sink.flush(20)
        assert (sink.rows_written_total, sink.rejected_total, sink.spooled_records) == (300, 2, 0)
        sink.submit(make_record(301))
        assert await sink.flush(20)
        assert sink.last_error is None
    assert await connection.fetchval("select count(*) from request_logs") == 301
    lines = [json.loads(line) for line in (tmp_path / REJECTED).read_text().splitlines()]
    assert {line["record"]["id"] for line in lines} == {str(too_long_for_an_index.id), str(out_of_range.id)}
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert any(str(out_of_range.id) in message for message in errors)


async def test_lines_that_are_no_records_are_set_aside_alone(tmp_path, postgres_url, connection):
    good = [make_record(number, completion=f'"{number}",\\.\t\r\n\x01\x02') for number in range(3)]
    bad = [b"\\.\n", b"{\n", b"1\n", b"\xff\n", b"\x01\n", b'{"id": "x"}\n']
    segment = Segment.create(tmp_path / f"0{SUFFIX}")
    assert segment is not None
    segment.append(b"".join([encode(good[:1]), *bad, encode(good[1:])]), 3 + len(bad))
    segment.close()
    async with running(tmp_path, postgres_url) as sink:
        assert await sink.flush(20)
        assert (sink.rows_written_total, sink.rejected_total, sink.spooled_records) == (3, len(bad), 0)
    assert sorted(await read_logs(connection, 10), key=lambda record: record.id) == good
    lines = [json.loads(line) for line in (tmp_path / REJECTED).read_text().splitlines()]
    assert [base64.b64decode(line["payload"]) for line in lines] == bad


async def test_text_that_postgres_cannot_hold_survives_visibly(tmp_path, postgres_url, connection):
    bad = "nul \0 surrogate \udc00"
    async with running(tmp_path, postgres_url) as sink:
        huge = 1 << 70
        sink.submit(make_record(error_message=bad, metadata={bad: huge}, prompt=[bad, "\\u0000"], completion=bad))
        assert await sink.flush(20)
        assert sink.rejected_total == 0
    (row,) = await read_logs(connection, 1)
    good = "nul \ufffd surrogate \ufffd"
    assert row.error_message == row.completion == good
    assert row.metadata == {good: huge}
    assert row.prompt == [good, "\\u0000"]


async def test_a_newer_database_is_reported_and_records_wait(tmp_path, postgres_url, log_connection):
    await log_connection.execute("insert into pilotlight_schema_version (version) values (99)")
    async with running(tmp_path, postgres_url, longest_pause_s=0.01) as sink:
        sink.submit(make_record(1))
        await until(lambda: sink.last_error)
        assert "schema version 99" in (sink.last_error or "")
        assert sink.spooled_records == 1
        await log_connection.execute("delete from pilotlight_schema_version where version = 99")
        assert await sink.flush(20)


async def test_passwords_are_not_shown(tmp_path, caplog):
    async with running(tmp_path, "postgresql://user:hunter2@127.0.0.1:1/db") as sink:
        await until(lambda: sink.last_error and caplog.records)
        assert "hunter2" not in (sink.last_error or "")
    assert "hunter2" not in caplog.text


async def blocked_process(connection: asyncpg.Connection) -> int:
    """The server process that waits for a lock in this database."""
    query = (
        "select pid from pg_locks where not granted"
        " and database = (select oid from pg_database where datname = current_database())"
    )
    async with asyncio.timeout(20):
        while (pid := await connection.fetchval(query)) is None:  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.005)
    return pid


@pytest.mark.parametrize("frozen", [False, True], ids=["waits for a lock", "does not even answer"])
async def test_a_database_that_hangs_does_not_hang_the_shutdown(tmp_path, postgres_url, log_connection, frozen):
    async with log_connection.transaction():
        await log_connection.execute("lock table request_logs in access exclusive mode")
        sink = LogSink(Spool(tmp_path), postgres_url, shipping=Shipping(pool_size=1))
        await sink.start()
        for number in range(50):
            sink.submit(make_record(number))
        server = psutil.Process(await blocked_process(log_connection))
        if frozen:
            server.suspend()
        begin = time.monotonic()
        assert not await sink.close(0.3)
        seconds = time.monotonic() - begin
        server.resume()
    assert seconds < 1.2  # less than the limits that the last resorts have
    async with running(tmp_path, postgres_url) as successor:
        assert await successor.flush(20)
    assert await log_connection.fetchval("select count(*) from request_logs") == 50


async def test_a_server_that_never_answers_does_not_hang_the_shutdown(tmp_path):
    met = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        sink = LogSink(Spool(tmp_path), f"postgresql://u@127.0.0.1:{port}/db?sslmode=disable")
        await sink.start()
        sink.submit(make_record(1))
        await asyncio.wait_for(met.wait(), 10)
        begin = time.monotonic()
        assert not await sink.close(0.1)
        assert time.monotonic() - begin < 3
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 1


async def test_a_provider_that_does_not_let_go_does_not_hang_the_shutdown(tmp_path):
    asked = asyncio.Event()

    async def url() -> str:
        asked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.Event().wait()
        return ""

    sink = LogSink(Spool(tmp_path), url)
    await sink.start()
    await asked.wait()
    assert await asyncio.wait_for(sink.close(0.01), 10)  # there was nothing to flush


async def test_a_statement_that_takes_too_long_is_an_error_and_tried_again(tmp_path, postgres_url, log_connection):
    async with running(tmp_path, postgres_url, statement_timeout_s=0.2, longest_pause_s=0.01) as sink:
        await until(lambda: sink.connected)
        async with log_connection.transaction():
            await log_connection.execute("lock table request_logs in access exclusive mode")
            sink.submit(make_record(1))
            await until(lambda: sink.last_error)
        assert await sink.flush(20)


async def test_closing_flushes_and_leaves_nothing_behind(tmp_path, postgres_url, connection):
    sink = LogSink(Spool(tmp_path), postgres_url)
    await sink.start()
    sink.submit(make_record(1))
    assert await sink.close(20)
    assert await connection.fetchval("select count(*) from request_logs") == 1
    assert list(tmp_path.iterdir()) == []
    assert not sink.connected


async def test_without_a_database_the_spool_keeps_everything(tmp_path):
    sink = LogSink(Spool(tmp_path), None)
    await sink.start()
    sink.submit(make_record(1))
    assert sink.spooled_records == 1
    assert await sink.flush(0)
    assert await sink.close(0)
    assert len(list(tmp_path.glob(f"*{SUFFIX}"))) == 1


async def test_instances_that_start_together_share_a_new_database(tmp_path, postgres_url, connection):
    sinks = [LogSink(Spool(tmp_path), postgres_url, shipping=Shipping(pool_size=1)) for _ in range(4)]
    for number, sink in enumerate(sinks):
        await sink.start()
        sink.submit(make_record(number))
    assert all(await asyncio.gather(*(sink.close(20) for sink in sinks)))
    assert all(sink.last_error is None for sink in sinks)
    assert await connection.fetchval("select count(*) from request_logs") == 4


async def test_how_fast_a_backlog_is_shipped(tmp_path, postgres_url, capsys):
    spool = Spool(tmp_path)
    record = full_record()
    begin = time.perf_counter()
    for _ in range(2000):
        spool.append(record)
    append_us = (time.perf_counter() - begin) / 2000 * 1e6
    for number in range(20_000):
        spool.append(make_record(number))
    sink = LogSink(spool, postgres_url)
    begin = time.perf_counter()
    await sink.start()
    assert await sink.close(60)
    seconds = time.perf_counter() - begin
    assert sink.rows_written_total == 20_001
    rate_per_s = 22_000 / seconds
    with capsys.disabled():
        print(f"\nappend {append_us:.1f} us, {rate_per_s:,.0f} records per s shipped")  # noqa: T201


@pytest.mark.parametrize("failures", [1, 4])
async def test_pauses_between_attempts_grow_to_a_limit(tmp_path, failures, caplog):
    async with running(tmp_path, "postgresql://u@127.0.0.1:1/db", longest_pause_s=0.15) as sink:
        await until(lambda: len(caplog.records) >= failures)
        pauses = [record.args[2] for record in caplog.records]  # type: ignore[index]
        assert 0.05 <= pauses[0] <= 0.1
        assert all(0.075 <= pause <= 0.15 for pause in pauses[1:])
        assert not sink.connected
