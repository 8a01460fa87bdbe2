"""What processes that are gone left in the directory, and who takes it over when."""

from __future__ import annotations

import asyncio
import threading

from handler.errors import SpoolError
from handler.requestlog.adoption import find_orphans
from handler.requestlog.sink import LogSink
from handler.requestlog.spool import Spool
from tests.requestlog.records import make_record
from tests.requestlog.waiting import until


async def test_what_is_found_while_the_sink_closes_is_there_for_the_next_one(tmp_path, monkeypatch):
    def find_slowly(directory, most):
        """Find what others left only when told to."""
        found.wait(20)
        return find_orphans(directory, most)

    monkeypatch.setattr("handler.requestlog.adoption.find_orphans", find_slowly)
    found = threading.Event()
    first = Spool(tmp_path)
    first.append(make_record(1))
    first.close()
    sink = LogSink(Spool(tmp_path), None)
    await sink.start()
    closing = asyncio.create_task(sink.close(0))
    await asyncio.sleep(0)
    found.set()
    await closing
    assert len(find_orphans(tmp_path)) == 1


async def test_a_search_that_fails_while_the_sink_closes_does_not_keep_it_going(tmp_path, monkeypatch):
    def fail_slowly(directory, most):
        searched.set()
        failed.wait(20)
        raise SpoolError("cannot list it")

    async def url() -> str:
        asked.append(sink)
        return ""

    asked: list[LogSink] = []
    searched, failed = threading.Event(), threading.Event()
    monkeypatch.setattr("handler.requestlog.adoption.find_orphans", fail_slowly)
    sink = LogSink(Spool(tmp_path), url)
    await sink.start()
    await until(searched.is_set)
    closing = asyncio.create_task(sink.close(0))
    await until(lambda: sink._shipper._closing)
    failed.set()
    await closing
    assert not asked
