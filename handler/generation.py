"""One request in the engine: its sequences, their events as they arrive, what they add up to. Event loop only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import msgspec

from handler.choice import Choice
from handler.engine.events import OnEvent, TokenEvent
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.metrics import Metrics
from handler.schema.usage import PromptTokensDetails, Usage
from handler.trace import RequestTrace

OnStart = Callable[[float | None], None]


class SubmitsSequences(Protocol):
    """What a generation needs of an engine."""

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        """Queue a sequence."""


class Consumer(Protocol):
    """Takes the events of a generation as they arrive."""

    def is_ready(self) -> bool:
        """Whether it can take one more now."""

    def take(self, choice: Choice, event: TokenEvent) -> None:
        """Do with an event, which the choice has taken in, whatever is to be done. Must not wait."""


class Generation:
    """All sequences of one request, from submission to the last event.

    `cancel` must be called at the end, however it comes: it frees what still runs. `on_start` is called for each
    sequence that enters a batch, with the moment at which it did.

    Attributes:
        prompt_tokens: of all prompts together.
        ended_s: `time.monotonic()` when the last sequence ended, which may be long before the client has read it all.
    """

    ended_s: float | None = None

    _waiter: asyncio.Future[None] | None = None
    _waits_for_end = False
    _error: Exception | None = None
    _consumer: Consumer | None = None

    def __init__(
        self,
        prompts: list[list[int]],
        params: SamplingParams,
        n: int,
        trace: RequestTrace,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        on_start: OnStart | None = None,
    ) -> None:
        self.choices = [Choice(index) for index in range(len(prompts) * n)]  # those of a prompt side by side
        self._prompts = prompts
        self._params = params
        self._n = n
        self._trace = trace
        self._metrics = metrics
        self._loop = loop
        self._on_start = on_start
        self._handles: list[Handle] = []
        self._arrived: list[tuple[Choice, TokenEvent]] = []
        self._unfinished = len(self.choices)
        self.prompt_tokens = trace.prompt_tokens = sum(map(len, prompts))

    def submit(self, engine: SubmitsSequences) -> None:
        """Hand all sequences to the engine."""
        self._trace.completion_tokens = 0
        for choice in self.choices:
            params = self._params
            if params.seed is not None and choice.index % self._n:
                # Choices of a seeded request differ from each other, and each is repeatable.
                params = msgspec.structs.replace(params, seed=params.seed + choice.index % self._n)
            prompt = self._prompts[choice.index // self._n]
            self._handles.append(engine.submit(prompt, params, partial(self._on_event, choice)))

    def cancel(self) -> None:
        """Free the sequences that have not ended."""
        self._consumer = None  # it knows the answer, which knows this generation
        if not self._unfinished:
            return
        for choice, handle in zip(self.choices, self._handles, strict=False):
            if choice.finish_reason is None:
                handle.cancel()

    @property
    def has_ended(self) -> bool:
        """Whether every choice has ended and every event has been taken."""
        return not self._unfinished and not self._arrived and self._error is None

    @property
    def num_logprobs(self) -> int:
        """Tokens of all choices whose log probabilities are still to be written."""
        number = 0
        for choice in self.choices:
            if choice.logprobs is not None or choice.prompt_logprobs is not None:
                number += choice.num_logprobs
        return number

    def feed(self, consumer: Consumer) -> None:
        """Give events to `consumer` as they arrive, without waking who waits in `arrivals`.

        A choice's first and last events still come there, and those that find the consumer not ready, with all behind.
        """
        self._consumer = consumer

    async def arrivals(self) -> Iterator[tuple[Choice, TokenEvent]]:
        """Wait for events; all that have come since the last call, in the order of the engine's steps.

        A choice takes an event in as the iterator yields it. One that fails keeps its `error` and does not end the
        others. There may be no events, if `wake` was called.

        Raises:
            EngineError: every choice has failed, and what came before has been yielded.
            Exception: what the consumer failed with.
        """
        if self._error is not None:
            raise self._error
        if not self._arrived:
            await self._next_wake()
        arrived, self._arrived = self._arrived, []
        return self._taken_in(arrived)

    async def finish(self) -> None:
        """Wait until every choice has ended and take in all events; much cheaper than waiting for each of them.

        Raises:
            EngineError: every choice has failed.
        """
        self._waits_for_end = True
        while self._unfinished:
            await self._next_wake()
        arrived, self._arrived = self._arrived, []
        for choice, event in arrived:
            self._take_in(choice, event)
        if self._error is not None:
            raise self._error

    def wake(self) -> None:
        """Let `arrivals` return, if somebody waits in it."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def usage(self) -> Usage:
        """Tokens used so far; a prompt with several completions counts once."""
        prompt = self.prompt_tokens
        completion = cached = 0
        for choice in self.choices:
            completion += choice.completion_tokens
            if not choice.index % self._n:
                cached += choice.cached_tokens
        return Usage(prompt, completion, prompt + completion, PromptTokensDetails(cached))

    def _next_wake(self) -> asyncio.Future[None]:
        self._waiter = self._loop.create_future()
        return self._waiter

    def _taken_in(self, arrived: list[tuple[Choice, TokenEvent]]) -> Iterator[tuple[Choice, TokenEvent]]:
        for choice, event in arrived:
            self._take_in(choice, event)
            if self._error is not None:
                return
            yield choice, event

    def _take_in(self, choice: Choice, event: TokenEvent) -> None:
        choice.add(event)
        if choice.error is not None:
            if all(choice.error is not None for choice in self.choices):
                self._error = choice.error
            else:
                self._trace.fail(choice.error)  # the answer has a part that failed, and so the row says

    def _on_event(self, choice: Choice, event: TokenEvent) -> None:
        if not choice.has_begun:
            self._begin(choice, event)
        if event.token_ids:
            self._count(choice, event)
        if event.finish_reason is not None:
            self._unfinished -= 1
            if not self._unfinished:
                self.ended_s = time.monotonic()
            if choice.index == 0:
                self._trace.finish_reason = str(event.finish_reason)
        elif not event.token_ids:
            return  # it has entered a batch, which is known now
        elif self._consumer is not None and self._is_fed(self._consumer, choice, event):
            return
        self._arrived.append((choice, event))
        waiter = self._waiter
        if waiter is not None and not (self._waits_for_end and self._unfinished) and not waiter.done():
            waiter.set_result(None)

    def _is_fed(self, consumer: Consumer, choice: Choice, event: TokenEvent) -> bool:
        """Give an event to the consumer, unless that is not ready or others have to come before it.

        Those are the choice's first one, and what `arrivals` has yielded to somebody who does not wait there again yet.
        """
        waiter = self._waiter
        if waiter is None or waiter.done() or not choice.completion_tokens or not consumer.is_ready():
            return False
        choice.extend(event)
        try:
            consumer.take(choice, event)
        except Exception as error:  # noqa: BLE001  (this request's fault, and not of those that share the step)
            self._consumer, self._error = None, error
            self.wake()
        return True

    def _begin(self, choice: Choice, event: TokenEvent) -> None:
        if event.error is not None and event.first_scheduled_s is None:
            return  # it never did
        choice.has_begun = True
        if self._trace.first_scheduled_s is None:
            self._trace.first_scheduled_s = event.first_scheduled_s
        if self._on_start is not None:
            self._on_start(event.first_scheduled_s)

    def _count(self, choice: Choice, event: TokenEvent) -> None:
        now_s = time.monotonic()
        num_tokens = len(event.token_ids)
        trace, before_s = self._trace, choice.last_token_s
        trace.completion_tokens = (trace.completion_tokens or 0) + num_tokens
        choice.last_token_s = now_s
        if before_s is not None:
            self._metrics.observe_token_gap(num_tokens, now_s - before_s)
            return
        self._metrics.count_tokens(num_tokens)
        if trace.first_token_s is None:
            trace.first_token_s = now_s
        if choice.index % self._n == 0:
            trace.cached_tokens = (trace.cached_tokens or 0) + event.cached_tokens
