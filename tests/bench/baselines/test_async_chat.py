from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import cast

import pytest

from bench.baselines.async_chat import complete, running, stream
from bench.baselines.backend import sink_of
from handler.errors import EngineError
from handler.requestlog.record import Status
from tests.bench.baselines.jobs import LONG, Kept
from tests.server import until


async def idle(kept: Kept) -> None:
    """Return when the engine works on nothing."""

    async def look() -> bool | None:
        return None if kept.engine.stats.num_running else True

    await until(look, "the engine is idle")


async def test_closing_a_stream_frees_the_engine(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    async with running(kept.engine, sink_of(kept.settings)):
        events = cast("AsyncGenerator[bytes, None]", stream(kept.chat, kept.job(max_tokens=LONG)))
        assert b'"role":"assistant"' in await anext(events)
        assert kept.records == []
        await events.aclose()
        await asyncio.wait_for(idle(kept), 20)
    assert [(record.status, record.http_status) for record in kept.records] == [(Status.CANCELLED, 200)]


async def test_cancelling_a_whole_answer_frees_the_engine(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    async with running(kept.engine, sink_of(kept.settings)):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(complete(kept.chat, kept.job(max_tokens=LONG)), 0.05)
        await asyncio.wait_for(idle(kept), 20)
    assert [(record.status, record.http_status) for record in kept.records] == [(Status.CANCELLED, 499)]


async def test_a_failure_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    kept = Kept(tmp_path, is_broken=True)
    async with running(kept.engine, sink_of(kept.settings)):
        events = [event async for event in stream(kept.chat, kept.job())]
        with pytest.raises(EngineError, match="gone"):
            await complete(kept.chat, kept.job())
    assert len(events) == 1
    assert b'data: {"error":{"message":"the device is gone"' in events[0]
    assert [(record.status, record.error_type) for record in kept.records] == [(Status.ERROR, "EngineError")]
