"""Engine and request log beside a WSGI server's threads.

The engine's own thread calls whoever waits for an event: that is one change of threads, where a loop between the two
would make it two. The request log's loop runs in a thread of its own. It is told of a record and not waited for, so
that a client may have its last byte a moment before the spool has the record: cheaper than what the function does, and
a weaker promise.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import uvloop

from handler.errors import SpoolError
from handler.requestlog.sink import LogSink
from handler.service import ServesModel
from handler.trace import RequestTrace

_STOP_S = 10.0
_FLUSH_S = 5.0

_log = logging.getLogger(__name__)


class Background:
    """To be made in the process that serves, after its fork."""

    def __init__(self, engine: ServesModel, open_sink: Callable[[], LogSink]) -> None:
        self._engine = engine
        self._posting = threading.Lock()
        self._keeping = threading.Lock()
        self._kept: list[RequestTrace] = []
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="request-log", daemon=True)
        self._thread.start()
        self._sink = self._run(open_sink)
        asyncio.run_coroutine_threadsafe(self._sink.start(), self._loop).result()
        engine.start(self._post, lambda _: None)

    def keep(self, trace: RequestTrace) -> None:
        """Have the record kept, soon: the log's thread is woken for the first of those that wait for it."""
        with self._keeping:
            self._kept.append(trace)
            is_first = len(self._kept) == 1
        if is_first:
            self._loop.call_soon_threadsafe(self._submit)

    def close(self) -> None:
        """End engine, log and thread."""
        self._engine.stop(_STOP_S)
        asyncio.run_coroutine_threadsafe(self._sink.close(_FLUSH_S), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _post(self, function: Callable[[], None]) -> None:
        """Run what the engine has to say on the thread that says it; one at a time, for its listeners expect that."""
        with self._posting:
            function()

    def _submit(self) -> None:
        with self._keeping:
            kept, self._kept = self._kept, []
        try:
            self._sink.submit(*kept)
        except SpoolError:
            _log.exception("%d records not spooled", len(kept))

    def _run(self, open_sink: Callable[[], LogSink]) -> LogSink:
        async def opened() -> LogSink:
            return open_sink()

        return asyncio.run_coroutine_threadsafe(opened(), self._loop).result()
