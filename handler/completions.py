"""The completion endpoints: decode, admit, tokenize, submit, then stream or collect. Event loop only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Generic

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from handler.errors import (
    BodyTooLargeError,
    ClientDisconnectedError,
    DeadlineExceededError,
    PilotlightError,
    StoppingError,
    UnsupportedMediaTypeError,
)
from handler.formats.format import Answer, Format, Head, RequestT
from handler.generation import Generation
from handler.service import Service
from handler.sse import HEADERS
from handler.trace import RequestTrace, trace_of

_LAST_WORDS_S = 1.0


class CompletionEndpoint(Generic[RequestT]):
    """An ASGI application for one kind of completion."""

    def __init__(self, service: Service, form: Format[RequestT]) -> None:
        self._service = service
        self._format: Format[RequestT] = form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what cannot be answered raises, or ends the stream with an error event."""
        trace = trace_of(scope)
        reply = Reply(send)
        timeout_s = self._service.settings.request_timeout
        try:
            async with asyncio.timeout(timeout_s):
                body = await read_body(scope, receive, self._service.settings.max_body_bytes)
                async with cancelled_on_disconnect(receive):
                    await self._answer(body, trace, reply)
        except TimeoutError:
            await self._fail(DeadlineExceededError(f"The request took longer than {timeout_s:g} s"), trace, reply)
        except ClientDisconnectedError:
            raise
        except PilotlightError as error:
            await self._fail(error, trace, reply)
        except asyncio.CancelledError:  # DRAIN_TIMEOUT ran out; nothing else cancels a request from outside
            await self._fail(StoppingError("The server stopped before the answer was complete"), trace, reply)

    async def _fail(self, error: PilotlightError, trace: RequestTrace, reply: Reply) -> None:
        """Raise an error that still can become a response of its own, else end the stream with it.

        A whole answer that was cut short cannot carry an error, nor can a stream whose start is stuck behind a client
        that does not read: their connection is closed.
        """
        if not reply.has_started:
            raise error
        trace.fail(error)
        if reply.streamed is None:
            return
        with contextlib.suppress(TimeoutError):  # a client that reads nothing does not read this either
            async with asyncio.timeout(_LAST_WORDS_S):
                await reply.write(reply.streamed.failure(error), last=True)

    async def _answer(self, body: bytes, trace: RequestTrace, reply: Reply) -> None:
        service, form = self._service, self._format
        request = form.decode(body)
        trace.model_name, trace.stream, trace.metadata = request.model, bool(request.stream), request.metadata
        service.check_model_name(request.model)
        with service.admission.admit(*form.count_sequences(request)):
            model = await service.model()
            plan = await run_in_threadpool(form.plan, request, model, service.params_factory(model))
            if service.settings.log_prompts:
                trace.prompt = form.logged_prompt(request)
            generation = Generation(plan.prompts, plan.params, plan.n, trace, service.metrics)
            head = Head(trace.request_id, int(trace.created_at.timestamp()), model.info.name)
            answer = form.answer(request, plan, head, generation, model)
            try:
                generation.submit(service.engine)
                if request.stream:
                    await self._stream(generation, answer, trace, reply)
                else:
                    await self._collect(generation, answer, trace, reply)
            finally:
                generation.cancel()

    async def _collect(self, generation: Generation, answer: Answer, trace: RequestTrace, reply: Reply) -> None:
        async for _ in generation.events():
            pass
        whole = answer.whole()
        self._log_completion(generation, trace)
        await reply.whole(whole)

    async def _stream(self, generation: Generation, answer: Answer, trace: RequestTrace, reply: Reply) -> None:
        async for choice, event in generation.events():
            if not reply.has_started:  # an error before the first token is still a response of its own
                await reply.start_stream(answer)
            await reply.write(answer.event(choice, event))
        closing = answer.closing()
        self._log_completion(generation, trace)
        await reply.write(closing, last=True)

    def _log_completion(self, generation: Generation, trace: RequestTrace) -> None:
        """Keep the text where LOG_PROMPTS asks for it; several choices as a JSON array."""
        if self._service.settings.log_prompts:
            texts = [choice.text for choice in generation.choices]
            trace.completion = texts[0] if len(texts) == 1 else orjson.dumps(texts).decode()


class Reply:
    """One response, whole or streamed."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False
        self.streamed: Answer | None = None

    async def whole(self, body: bytes) -> None:
        """Send a complete JSON response."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self._start(headers)
        await self.write(body, last=True)

    async def start_stream(self, answer: Answer) -> None:
        """Begin a stream of events."""
        await self._start(HEADERS)
        self.streamed = answer
        await self.write(answer.opening())

    async def write(self, data: bytes, *, last: bool = False) -> None:
        """Send a part of the body, waiting while the client is slow."""
        if data or last:
            await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def _start(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The whole request body.

    Raises:
        UnsupportedMediaTypeError: declared as something other than JSON.
        BodyTooLargeError: announced or arriving larger than `max_bytes`.
        ClientDisconnectedError: the client left before the end.
    """
    headers = Headers(scope=scope)
    media_type = headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaTypeError(f"The body must be application/json, not {media_type}")
    too_large = BodyTooLargeError(f"The body is larger than {max_bytes} bytes")
    length = headers.get("content-length")
    if length is not None and length.isdecimal() and int(length) > max_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnectedError("the client left while sending its request")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            raise too_large
        if not message.get("more_body", False):
            return b"".join(parts)


@contextlib.asynccontextmanager
async def cancelled_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the body when the client leaves, wherever it waits, even in a blocked `send`.

    Raises:
        ClientDisconnectedError: in place of the cancellation.
    """
    task = asyncio.current_task()
    assert task is not None
    has_left = False

    async def watch() -> None:
        nonlocal has_left
        while (await receive())["type"] != "http.disconnect":
            pass
        has_left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        if has_left and task.uncancel() == 0:
            raise ClientDisconnectedError("the client left before its answer was complete") from None
        raise
    finally:
        watcher.cancel()
