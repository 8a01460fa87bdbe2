"""The completion endpoints: decode, admit, tokenize, submit, then stream or collect. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Generic, TypeVar

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from handler.admission import LARGE_BODY_BYTES
from handler.body import read_body
from handler.errors import DeadlineExceededError, PilotlightError
from handler.formats.format import Answer, Format, Head, Plan, RequestT
from handler.generation import Generation
from handler.interruption import Delay, Interruption, Supervision
from handler.occupancy import Stay
from handler.params import ParamsFactory
from handler.rate_limits.allowance import Allowance
from handler.reply import Heartbeat, PushedAnswer, Reply, end_with
from handler.service import Service
from handler.trace import RequestTrace, header, trace_of

_SMALL_BODY_BYTES = 1024
"""Up to here tokenizing holds the loop for part of a millisecond; a thread costs it 0.1 ms, and a wait in line."""
_MANY_LOGPROBS = 256
"""Lists of more tokens are written in a thread: thousands, each with 20 alternatives, would hold the loop too long."""

T = TypeVar("T")


class CompletionEndpoint(Generic[RequestT]):
    """An ASGI application for one kind of completion."""

    def __init__(self, service: Service, form: Format[RequestT]) -> None:
        self._service = service
        self._format: Format[RequestT] = form
        self._turns = Delay[Interruption](service.settings.queue_timeout, self._check_turn)
        self._supervision = Supervision(service.settings.request_timeout, self._limit_wait)
        self._admission = service.admission
        self._max_body_bytes = service.settings.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; what cannot be answered raises, or ends the stream with an error event."""
        trace = trace_of(scope)
        loop, admission = self._service.loop, self._admission
        reply = Reply(send, loop, scope.get("extensions"))
        interruption = Interruption(loop, receive, admission)
        self._supervision.begin(interruption)
        try:
            if admission.is_contended:
                admission.check_head(_body_bytes(scope))
            # No name for the body here: it would be kept as long as this frame.
            await self._answer(await read_body(scope, receive, self._max_body_bytes), trace, reply, interruption)
        except asyncio.CancelledError:
            await end_with(interruption.reason(), reply, trace)
        except PilotlightError as error:
            await end_with(error, reply, trace)
        finally:
            self._supervision.end(interruption)

    async def _answer(self, body: bytes, trace: RequestTrace, reply: Reply, interruption: Interruption) -> None:
        service, form, size = self._service, self._format, len(body)
        self._supervision.note_body(interruption)
        request = form.decode(body) if size <= LARGE_BODY_BYTES else await service.decode_large(form.decode, body)
        del body
        trace.model_name, trace.stream, trace.metadata = request.model, bool(request.stream), request.metadata
        service.check_model_name(request.model)
        with self._admission.admit(form.demand(request), size) as stay:
            try:
                generation, answer = await self._prepare(request, size, trace, reply, stay, interruption)
                del request  # nothing of its size is kept while it waits
                try:
                    generation.submit(service.engine)
                    if trace.stream:
                        await self._stream(generation, answer, trace, reply)
                    else:
                        await self._collect(generation, answer, trace, reply)
                finally:
                    generation.cancel()
                    num_tokens = trace.completion_tokens or 0
                    stay.note_end(num_tokens, by_itself=generation.has_ended, ended_s=generation.ended_s)
            finally:
                if interruption.is_watched:
                    self._turns.end(interruption)

    async def _prepare(
        self,
        request: RequestT,
        size: int,
        trace: RequestTrace,
        reply: Reply,
        stay: Stay,
        interruption: Interruption,
    ) -> tuple[Generation, Answer]:
        """Everything up to the submission.

        From here on the request may not wait longer than QUEUE_TIMEOUT, counted from when its client is watched.
        """
        service, form, loop = self._service, self._format, self._service.loop
        served = service.served
        if served is None:
            served = await self._patiently(service.when_served(), request, reply)
        interruption.stay = stay
        if interruption.is_watched:
            self._limit_wait(interruption)
        model, factory = served.model, served.factory
        if size <= _SMALL_BODY_BYTES and form.is_light(request):
            plan = form.plan(request, model, factory)
        else:
            planned = service.in_thread(form.plan, request, model, factory)
            plan = await self._patiently(planned, request, reply)
        stay.note_prompt(sum(map(len, plan.prompts)))
        if trace.allowance is not None:
            await self._reserve(trace.allowance, request, plan, factory)
        if service.settings.log_prompts:
            trace.prompt = form.logged_prompt(request)
        generation = Generation(plan.prompts, plan.params, plan.n, trace, service.metrics, loop, stay.note_start)
        head = Head(trace.request_id, int(trace.created_s), model.info.name, served.fingerprint)
        return generation, form.answer(request, plan, head, generation, model)

    def _limit_wait(self, interruption: Interruption) -> None:
        """Have a request's turn come in time, once it waits for that and is not over soon, like most."""
        if interruption.stay is not None:
            self._turns.begin(interruption, self._service.loop)

    def _check_turn(self, interruption: Interruption) -> None:
        """End a request that has not begun by now."""
        if interruption.stay is not None and not interruption.stay.has_begun:
            waited_s = self._service.settings.queue_timeout
            interruption.interrupt(DeadlineExceededError(f"The request waited {waited_s:g} s and had not begun"))

    async def _reserve(self, allowance: Allowance, request: RequestT, plan: Plan, factory: ParamsFactory) -> None:
        """Count the tokens that the request may use; of completions that nothing limits, what they used at the end."""
        field, num_tokens = factory.promised_tokens(request)
        await allowance.reserve(sum(map(len, plan.prompts)), num_tokens * plan.n * len(plan.prompts), field)

    async def _patiently(self, waited_for: Coroutine[Any, Any, T], request: RequestT, reply: Reply) -> T:
        """The result; while it takes long, a stream's client hears that the server lives."""
        interval_s = self._service.settings.heartbeat_interval
        if not request.stream or not interval_s:
            return await waited_for
        task = asyncio.ensure_future(waited_for)
        try:
            while not (await asyncio.wait({task}, timeout=interval_s))[0]:
                await reply.heartbeat()
            return task.result()
        finally:
            task.cancel()

    async def _collect(self, generation: Generation, answer: Answer, trace: RequestTrace, reply: Reply) -> None:
        await generation.finish()
        is_long = generation.num_logprobs > _MANY_LOGPROBS
        whole = await run_in_threadpool(answer.whole) if is_long else answer.whole()
        self._note_end(answer, trace)
        if not reply.whole_at_once(whole):
            await reply.whole(whole)

    async def _stream(self, generation: Generation, answer: Answer, trace: RequestTrace, reply: Reply) -> None:
        pusher = reply.pusher
        if pusher is not None:
            generation.feed(PushedAnswer(answer, reply, pusher, self._service.loop))
        with Heartbeat(reply, self._service.settings.heartbeat_interval, generation.wake) as heartbeat:
            while not generation.has_ended:
                frames: list[bytes] = []
                for choice, event in await generation.arrivals():
                    if not frames:
                        frames.append(reply.opening(answer))
                    is_long = event.prompt_logprobs is not None and len(event.prompt_logprobs) > _MANY_LOGPROBS
                    write = answer.event
                    frames.append(await run_in_threadpool(write, choice, event) if is_long else write(choice, event))
                if frames:  # an error before the first token is still a response of its own
                    await reply.stream(b"".join(frames))
                elif heartbeat.is_due():
                    await reply.heartbeat()
        closing = answer.closing()
        self._note_end(answer, trace)
        await reply.stream(closing, last=True)

    def _note_end(self, answer: Answer, trace: RequestTrace) -> None:
        """Keep why the answer ended, and its text where LOG_PROMPTS asks for that; several texts as a JSON array."""
        trace.finish_reason = answer.finish_reason
        if self._service.settings.log_prompts:
            texts = answer.texts
            trace.completion = texts[0] if len(texts) == 1 else orjson.dumps(texts).decode()


def _body_bytes(scope: Scope) -> int | None:
    """As the head says it; None where the body comes in chunks."""
    length = header(scope, b"content-length")
    return int(length) if length is not None and length.isdecimal() else None
