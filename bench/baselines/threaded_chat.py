"""The engine's events for applications that give each request a thread: Flask, and Django on WSGI.

The engine's thread puts each event where the request's thread waits for it, and does not wait for it to be taken: the
stub engine without a step time is ahead of its consumers here, which spares them a wait for each event.

A client that leaves is noticed when the next event is written to it. While a whole answer is awaited nothing is
written, so it is generated to its end.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator

from bench.baselines.answers import StreamedAnswer
from bench.baselines.chat import Chat, Job, take
from handler.choice import Choice
from handler.engine.events import TokenEvent
from handler.errors import ClientDisconnectedError, PilotlightError
from handler.http_errors import error_body
from handler.sse import error_event


def complete(chat: Chat, job: Job) -> Choice:
    """The whole completion.

    Raises:
        EngineError: the engine failed.
    """
    ended: queue.SimpleQueue[None] = queue.SimpleQueue()
    choice = Choice(0)

    def on_event(event: TokenEvent) -> None:
        take(job, choice, event)
        if event.finish_reason is not None:
            ended.put(None)

    chat.submit(job, on_event)
    ended.get()
    if choice.error is not None:
        raise choice.error
    return choice


def stream(chat: Chat, job: Job) -> Iterator[bytes]:
    """Events as they come. Whoever closes it cancels the sequence."""
    events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()
    choice, answer = Choice(0), StreamedAnswer(job.head, with_usage=job.with_usage)
    handle = chat.submit(job, events.put)
    has_ended = False
    try:
        while not has_ended:
            event = events.get()
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
