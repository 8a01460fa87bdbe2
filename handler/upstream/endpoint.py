"""Forwards a request to the remote server and its answer to the client, and notes what log and metrics want to know.

Key, admission, deadlines, heartbeats and what becomes of clients that leave are as for an engine of our own. Event loop
only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from handler.body import read_body
from handler.demand import Demand
from handler.errors import (
    EngineError,
    InvalidRequestError,
    PilotlightError,
    UpstreamError,
)
from handler.interruption import Interruption, Supervision
from handler.occupancy import Stay
from handler.reply import Reply, end_with
from handler.service import Service
from handler.sse import DONE
from handler.trace import RequestTrace, trace_of
from handler.upstream.engine import RemoteEngine
from handler.upstream.events import Completion, EventSplitter, Part, data_of, is_end, read_part, with_usage

T = TypeVar("T")


class ForwardingEndpoint:
    """An ASGI application for one path of the remote server.

    Args:
        service: with admission, settings and metrics.
        engine: the server.
        path: below its URL, such as `/chat/completions`.
        usage_on_request: whether a stream tells its usage only where `stream_options` asks for it.
    """

    def __init__(self, service: Service, engine: RemoteEngine, path: str, *, usage_on_request: bool) -> None:
        self._service = service
        self._engine = engine
        self._url = f"{engine.url}{path}"
        self._usage_on_request = usage_on_request
        self._supervision = Supervision(service.settings.request_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what cannot be answered raises, or ends the stream with an error event."""
        trace, loop = trace_of(scope), self._service.loop
        reply = Reply(send, loop, None)
        interruption = Interruption(loop, receive, self._service.admission)
        self._supervision.begin(interruption)
        try:
            body = await read_body(scope, receive, self._service.settings.max_body_bytes)
            self._supervision.note_body(interruption)
            await self._answer(body, trace, reply)
        except asyncio.CancelledError:
            await end_with(interruption.reason(), reply, trace)
        except PilotlightError as error:
            await end_with(error, reply, trace)
        finally:
            self._supervision.end(interruption)

    async def _answer(self, body: bytes, trace: RequestTrace, reply: Reply) -> None:
        fields = _fields(body)
        trace.model_name, trace.stream, trace.metadata = fields["model"], bool(fields.get("stream")), _metadata(fields)
        self._service.check_model_name(fields["model"])
        if self._service.settings.log_prompts:
            trace.prompt = fields.get("messages", fields.get("prompt", fields.get("input")))
        with self._service.admission.admit(_demand(fields), len(body)) as stay:
            await self._service.booted()
            if self._service.boot_error is not None:
                raise EngineError(str(self._service.boot_error))
            hides_usage = trace.stream and self._usage_on_request and not _asks_for_usage(fields)
            request = self._engine.client.build_request(
                "POST",
                self._url,
                content=with_usage(fields) if hides_usage else body,
                headers={"content-type": "application/json", "x-request-id": trace.request_id},
            )
            trace.first_scheduled_s = time.monotonic()
            try:
                sending = self._engine.client.send(request, stream=True)
                response = await (self._patiently(sending, reply) if trace.stream else sending)
                try:
                    await self._forward(response, trace, reply, stay, hides_usage=hides_usage)
                finally:
                    await response.aclose()  # which the server takes for a client that has left, unless all is here
            except httpx.HTTPError as error:
                raise UpstreamError(f"The model's server failed: {type(error).__name__}") from error
            finally:
                stay.note_end(trace.completion_tokens or 0, by_itself=trace.finish_reason is not None)

    async def _forward(
        self, response: httpx.Response, trace: RequestTrace, reply: Reply, stay: Stay, *, hides_usage: bool
    ) -> None:
        if response.status_code != httpx.codes.OK:
            whole = await response.aread()
            error = UpstreamError(f"The model's server answered {response.status_code}")
            if reply.has_started:
                raise error
            trace.fail(error)
            await reply.forwarded(response.status_code, whole, response.headers.get("content-type", "application/json"))
        elif trace.stream:
            await self._stream(response, trace, reply, stay, hides_usage=hides_usage)
        else:
            whole = await response.aread()
            _note_start(stay, trace)
            part = read_part(whole)
            if part is not None:
                trace.first_token_s = time.monotonic()
                self._note(part, trace)
                completion = Completion()
                completion.add(part)
                self._note_completion(completion, trace)
            await reply.whole(whole)

    async def _stream(
        self, response: httpx.Response, trace: RequestTrace, reply: Reply, stay: Stay, *, hides_usage: bool
    ) -> None:
        splitter, completion, ended, last_s = EventSplitter(), Completion(), False, None
        keeps_text = self._service.settings.log_prompts
        async for data in self._pieces(response, reply):
            frames = []
            for event in splitter.push(data):
                content = data_of(event)
                if is_end(content):
                    ended = True
                    continue  # our own comes last
                part = read_part(content) if content else None
                if part is not None:
                    if part.has_text:
                        last_s = self._note_token(trace, stay, last_s)
                    self._note(part, trace)
                    if keeps_text:
                        completion.add(part)
                    ended = ended or part.is_last
                    if hides_usage and part.is_usage_alone:
                        continue
                frames.append(event)
            if frames:
                await reply.stream(b"".join(frames))
        if not ended:
            raise UpstreamError("The model's server ended its answer before it was complete")
        self._note_completion(completion, trace)
        await reply.stream(DONE if self._usage_on_request else b"", last=True)

    async def _pieces(self, response: httpx.Response, reply: Reply) -> AsyncIterator[bytes]:
        """The answer's body as it comes, and signs of life to the client while none does."""
        pieces = response.aiter_bytes()
        while (piece := await self._patiently(anext(pieces, None), reply)) is not None:
            yield piece

    async def _patiently(self, waited_for: Awaitable[T], reply: Reply) -> T:
        """The result; while it takes long, a stream's client hears that the server lives."""
        interval_s = self._service.settings.heartbeat_interval
        if not interval_s:
            return await waited_for
        task = asyncio.ensure_future(waited_for)
        try:
            while not (await asyncio.wait({task}, timeout=interval_s))[0]:
                await reply.heartbeat()
            return task.result()
        finally:
            task.cancel()

    def _note_token(self, trace: RequestTrace, stay: Stay, last_s: float | None) -> float:
        """Something was generated: how long it took, and that this request waits no longer."""
        now_s = time.monotonic()
        if trace.first_token_s is None:
            trace.first_token_s = now_s
            _note_start(stay, trace)
        self._service.metrics.observe_token_gap(1, None if last_s is None else now_s - last_s)
        trace.completion_tokens = (trace.completion_tokens or 0) + 1  # until the usage says it better
        return now_s

    def _note(self, part: Part, trace: RequestTrace) -> None:
        if part.finish_reason is not None and trace.finish_reason is None:
            trace.finish_reason = part.finish_reason
        usage = part.tokens
        if usage is not None and usage.of_completion is not None:
            self._service.metrics.count_tokens(usage.of_completion - (trace.completion_tokens or 0))
            trace.prompt_tokens, trace.completion_tokens = usage.of_prompt, usage.of_completion
            trace.cached_tokens = usage.of_cache

    def _note_completion(self, completion: Completion, trace: RequestTrace) -> None:
        if self._service.settings.log_prompts:
            trace.completion = completion.text()


def _note_start(stay: Stay, trace: RequestTrace) -> None:
    """The server works on it, on all of its sequences for all that is known."""
    for _ in range(stay.sequences):
        stay.note_start(trace.first_scheduled_s)


def _fields(body: bytes) -> dict[str, Any]:
    """The request as far as it is looked at: an object that names a model. What else is in it, the server judges."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise InvalidRequestError(f"The body is no JSON object: {error}") from None
    if not isinstance(fields.get("model"), str):
        raise InvalidRequestError("model: must be a string", "model")
    return fields


def _demand(fields: dict[str, Any]) -> Demand:
    def whole(name: str) -> int | None:
        value = fields.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None

    limit = whole("max_completion_tokens") or whole("max_tokens") or whole("max_output_tokens")
    prompts = fields.get("prompt")
    several = len(prompts) if isinstance(prompts, list) and all(isinstance(each, str) for each in prompts) else 1
    return Demand(prompts=several or 1, completions=whole("n") or 1, param="n", max_tokens=limit)


def _asks_for_usage(fields: dict[str, Any]) -> bool:
    options = fields.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _metadata(fields: dict[str, Any]) -> dict[str, Any] | None:
    metadata = fields.get("metadata")
    return metadata if isinstance(metadata, dict) else None
