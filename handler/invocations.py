"""POST /invocations: the one path that SageMaker and Vertex AI send everything to. Event loop only.

The body's shape says what is asked: `messages` is a chat, `prompt` a text completion, and so on, each answered by the
endpoint that owns it, streams included. `instances` is Vertex AI's form of several such requests, which run together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.admission import LARGE_BODY_BYTES
from handler.body import read_body_in_time
from handler.errors import InvalidRequestError, PilotlightError
from handler.http_errors import error_body
from handler.interruption import Deadlines, interruptible
from handler.schema.codec import decode_object, decode_request, encode_json
from handler.schema.predictions import Predictions, PredictRequest
from handler.service import Service
from handler.trace import RequestTrace, forget_frames, trace_of

_PREDICT = msgspec.json.Decoder(PredictRequest)
_decode_predictions = partial(decode_request, _PREDICT)

T = TypeVar("T")


class InvocationsEndpoint:
    """Hands each request on to the endpoint of the first field in `endpoints` that it has."""

    def __init__(self, service: Service, endpoints: Mapping[str, ASGIApp]) -> None:
        self._service = service
        self._endpoints = endpoints
        self._deadlines = Deadlines(service.settings.request_timeout)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or the requests that it holds."""
        body = await read_body_in_time(scope, receive, self._service.settings)
        fields = await self._decoded(decode_object, body)
        if "instances" not in fields:
            endpoint, receive = self._endpoint(fields, ""), _replayed(body, receive)
            del body, fields  # nothing of their size is kept while the request waits
            await endpoint(scope, receive, send)
            return
        async with interruptible(receive, self._deadlines, self._service.admission):
            answer = encode_json(await self._predict(await self._decoded(_decode_predictions, body), scope))
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _decoded(self, decode: Callable[[bytes], T], body: bytes) -> T:
        """What `decode` makes of the body: beside the loop, and in its turn, where it would hold the loop too long."""
        return decode(body) if len(body) <= LARGE_BODY_BYTES else await self._service.decode_large(decode, body)

    def _endpoint(self, fields: Mapping[str, object], path: str) -> ASGIApp:
        for field, endpoint in self._endpoints.items():
            if field in fields:
                return endpoint
        known = ", ".join(f"`{field}`" for field in self._endpoints)
        raise InvalidRequestError(f"{path or 'The body'} must have one of {known}", path or None)

    async def _predict(self, request: PredictRequest, scope: Scope) -> Predictions:
        """Run all instances together. One that fails does not lose the others; where all do, it is the first error."""
        instances = [(request.parameters or {}) | instance for instance in request.instances]
        for index, instance in enumerate(instances):
            self._endpoint(instance, f"instances[{index}]")
            if instance.get("stream"):
                raise InvalidRequestError("Predictions come whole, never as a stream", f"instances[{index}].stream")
        trace = trace_of(scope)
        traces = [
            RequestTrace(request_id=f"{trace.request_id}-{index}", endpoint=trace.endpoint, cold_start=trace.cold_start)
            for index in range(len(instances))
        ]
        for part in traces:
            part.allowance = trace.allowance
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._run(instance, scope, part))
                    for instance, part in zip(instances, traces, strict=True)
                ]
        finally:
            trace.add_up(traces)
        results = [task.result() for task in tasks]
        errors = [result for result in results if isinstance(result, PilotlightError)]
        if len(errors) == len(results):
            raise errors[0]
        if errors:
            trace.fail(errors[0])
        return Predictions([_raw(result) for result in results])

    async def _run(self, instance: dict[str, Any], scope: Scope, trace: RequestTrace) -> bytes | PilotlightError:
        parts: list[bytes] = []

        async def collect(message: Message) -> None:
            parts.append(message.get("body", b""))

        endpoint = self._endpoint(instance, "instances")
        try:
            await endpoint({**scope, "pilotlight.trace": trace}, _replayed(encode_json(instance), _nothing), collect)
        except PilotlightError as error:
            forget_frames(error)
            return error
        return b"".join(parts)


def _raw(result: bytes | PilotlightError) -> msgspec.Raw:
    return msgspec.Raw(encode_json(error_body(result)) if isinstance(result, PilotlightError) else result)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What an endpoint receives that is to read `body` again, and then whatever comes."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


async def _nothing() -> Message:
    """A part of a request hears of no disconnect itself; whoever runs it does, and cancels it."""
    await asyncio.Event().wait()
    raise AssertionError("never set")
