"""The engine's events for applications on an event loop: FastAPI, and Django on ASGI. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.baselines.answers import StreamedAnswer
from bench.baselines.chat import Chat, Job, take
from handler.choice import Choice
from handler.engine.events import TokenEvent
from handler.errors import ClientDisconnectedError, PilotlightError
from handler.http_errors import error_body
from handler.requestlog.sink import LogSink
from handler.service import ServesModel
from handler.sse import error_event

_STOP_S = 10.0
_FLUSH_S = 5.0


@asynccontextmanager
async def running(engine: ServesModel, sink: LogSink) -> AsyncIterator[None]:
    """Start engine and log on this loop, and end both: the body of a lifespan."""
    loop = asyncio.get_running_loop()
    engine.start(loop.call_soon_threadsafe, lambda _: None)
    await sink.start()
    try:
        yield
    finally:
        await asyncio.to_thread(engine.stop, _STOP_S)
        await sink.close(_FLUSH_S)


async def complete(chat: Chat, job: Job) -> Choice:
    """The whole completion. Whoever is cancelled while it waits cancels the sequence.

    Raises:
        EngineError: the engine failed.
    """
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    choice = Choice(0)

    def on_event(event: TokenEvent) -> None:
        take(job, choice, event)
        if event.finish_reason is not None and not ended.done():
            ended.set_result(None)

    handle = chat.submit(job, on_event)
    try:
        await ended
    except asyncio.CancelledError:
        handle.cancel()
        job.trace.fail(ClientDisconnectedError("the client left"))
        chat.close(job.trace, None)
        raise
    if choice.error is not None:
        raise choice.error
    return choice


async def stream(chat: Chat, job: Job) -> AsyncIterator[bytes]:
    """Events as they come. Whoever closes it, or is cancelled in it, cancels the sequence."""
    events: asyncio.Queue[TokenEvent] = asyncio.Queue()
    choice, answer = Choice(0), StreamedAnswer(job.head, with_usage=job.with_usage)
    handle = chat.submit(job, events.put_nowait)
    has_ended = False
    try:
        while not has_ended:
            event = await events.get()
            take(job, choice, event)
            has_ended = event.finish_reason is not None
            if choice.error is not None:
                raise choice.error
            written = answer.events(choice, event)
            if has_ended:
                chat.close(job.trace, 200)  # before the last byte goes out
                written += answer.closing(choice)
            yield written
    except PilotlightError as error:
        job.trace.fail(error)
        chat.close(job.trace, 200)
        yield error_event(error_body(error))
    finally:
        if not has_ended:
            handle.cancel()
            job.trace.fail(ClientDisconnectedError("the client left"))
            chat.close(job.trace, 200)
