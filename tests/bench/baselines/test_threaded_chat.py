from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import pytest

from bench.baselines.backend import sink_of
from bench.baselines.background import Background
from bench.baselines.threaded_chat import complete, stream
from handler.errors import EngineError
from handler.requestlog.record import Status
from tests.bench.baselines.jobs import LONG, Kept
from tests.server import DEADLINE_S


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    background = Background(kept.engine, lambda: sink_of(kept.settings))
    yield kept
    background.close()


def test_closing_a_stream_frees_the_engine(kept: Kept) -> None:
    events = cast("Generator[bytes, None, None]", stream(kept.chat, kept.job(max_tokens=LONG)))
    assert b'"role":"assistant"' in next(events)
    events.close()
    deadline_s = time.monotonic() + DEADLINE_S
    while kept.engine.stats.num_running:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    assert [(record.status, record.http_status) for record in kept.records] == [(Status.CANCELLED, 200)]


def test_threads_get_what_is_theirs(kept: Kept) -> None:
    texts: dict[int, str] = {}

    def ask(max_tokens: int) -> None:
        texts[max_tokens] = complete(kept.chat, kept.job(max_tokens=max_tokens)).text

    threads = [threading.Thread(target=ask, args=(max_tokens,)) for max_tokens in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert {max_tokens: len(text.split()) for max_tokens, text in texts.items()} == {n: n for n in range(1, 33)}


def test_a_failure_ends_the_stream_with_an_error(tmp_path: Path) -> None:
    kept = Kept(tmp_path, is_broken=True)
    background = Background(kept.engine, lambda: sink_of(kept.settings))
    events = list(stream(kept.chat, kept.job()))
    with pytest.raises(EngineError, match="gone"):
        complete(kept.chat, kept.job())
    background.close()
    assert len(events) == 1
    assert b'data: {"error":{"message":"the device is gone"' in events[0]


def test_every_record_of_every_thread_is_in_the_spool(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    sink = sink_of(kept.settings)
    background = Background(kept.engine, lambda: sink)

    def keep() -> None:
        for _ in range(50):
            trace = kept.chat.begin(None)
            trace.end_s = trace.start_s
            background.keep(trace)

    threads = [threading.Thread(target=keep) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    background.close()
    assert sink.spooled_records == 400
