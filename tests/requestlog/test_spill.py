"""What becomes of records when the function ends, its database is away, and its disk goes with it."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import threading
import time
from pathlib import Path

import asyncpg
import pytest

from handler.requestlog.reader import read_logs
from handler.requestlog.record import COLUMNS, Record
from handler.requestlog.sink import LogSink
from handler.requestlog.spill import MESSAGE, spill
from handler.requestlog.spool import Spool
from tests.requestlog.records import full_record, make_record
from tests.requestlog.test_spool import adopt, replay, segments

NOBODY = "postgresql://u@127.0.0.1:1/db"


def numbered(count: int) -> list[Record]:
    return [make_record(number, completion="x" * number) for number in range(count)]


async def close_with(records: list[Record], directory: Path, descriptor: int) -> None:
    """Submit them to a sink that has no database, and close it."""
    sink = LogSink(Spool(directory), NOBODY, spill_descriptor=descriptor)
    await sink.start()
    for record in records:
        sink.submit(record)
    assert not await sink.close(0)


async def test_a_line_has_every_column_and_the_spool_is_empty(tmp_path, capfd):
    await close_with([full_record(), make_record(1)], tmp_path, 1)
    full, bare = (json.loads(line) for line in capfd.readouterr().out.splitlines())
    assert full.keys() == bare.keys() == {"time", "level", "logger", "message", *COLUMNS}
    assert full["message"] == MESSAGE
    assert dt.datetime.fromisoformat(full["time"]).tzinfo is not None
    for name in COLUMNS:
        value = getattr(full_record(), name)
        if name == "created_at":
            assert dt.datetime.fromisoformat(full[name]) == value
        elif name != "id":
            assert full[name] == value
    assert bare["completion"] is None
    assert segments(tmp_path) == []


async def test_what_reached_the_database_is_no_line(tmp_path, postgres_url, connection: asyncpg.Connection, capfd):
    sink = LogSink(Spool(tmp_path), postgres_url, spill_descriptor=1)
    await sink.start()
    sink.submit(make_record(1))
    assert await sink.close(20)
    assert len(await read_logs(connection, 10)) == 1
    assert capfd.readouterr().out == ""


async def test_without_a_descriptor_records_wait_for_the_next_process(tmp_path, capfd, caplog):
    sink = LogSink(Spool(tmp_path), NOBODY)
    await sink.start()
    sink.submit(make_record(1))
    assert not await sink.close(0)
    assert capfd.readouterr().out == ""
    assert "closed with 1 records left in the spool" in caplog.text
    assert len(replay(tmp_path)) == 1


def test_many_records_pass_through_a_pipe_whole(tmp_path):
    spool, records = Spool(tmp_path), numbered(3000)
    for record in records:
        spool.append(record)
    ours, theirs = os.pipe()
    got: list[bytes] = []

    def read() -> None:
        with os.fdopen(ours, "rb") as pipe:
            got.extend(pipe)

    reader = threading.Thread(target=read)
    reader.start()
    spill(spool, theirs, 30)
    os.close(theirs)
    reader.join()
    assert [json.loads(line)["request_id"] for line in got] == [record.request_id for record in records]
    assert spool.pending_records == 0


@pytest.mark.parametrize("way", ["nobody reads", "the reader has gone", "closed"])
def test_records_that_nobody_takes_stay_in_the_spool(tmp_path, way, caplog):
    gone = Spool(tmp_path)
    records = numbered(1200)
    for record in records:
        gone.append(record)
    ours, theirs = os.pipe()
    if way != "nobody reads":
        os.close(ours)
    if way == "closed":
        os.close(theirs)
    begin_s = time.monotonic()
    spill(gone, theirs, 0.1)
    assert time.monotonic() - begin_s < 10  # far from never
    assert "cannot be written to descriptor" in caplog.text
    gone.close()
    spool = Spool(tmp_path)
    adopt(spool)
    assert spool.pending_records == 1200
    for descriptor in (ours, theirs) if way == "nobody reads" else (theirs,) if way != "closed" else ():
        os.close(descriptor)


async def test_what_a_database_held_when_it_hung_is_a_line_too(tmp_path, capfd):
    asked = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        sink = LogSink(Spool(tmp_path), f"postgresql://u@127.0.0.1:{port}/db?sslmode=disable", spill_descriptor=1)
        await sink.start()
        sink.submit(make_record(1))
        await asked.wait()
        assert not await sink.close(0.1)
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line)["request_id"] == "req-1"
    assert segments(tmp_path) == []
