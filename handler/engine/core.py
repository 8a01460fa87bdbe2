"""One loaded model and its step: schedule, run, post-process. Synchronous; `engine.py` runs it in its thread."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Collection

import msgspec

from handler.engine.blocks import BlockPool
from handler.engine.loaded import LoadedModel
from handler.engine.output import SequenceOutput
from handler.engine.scheduler import Scheduler
from handler.engine.types import (
    Batch,
    EngineStats,
    FinishReason,
    PendingStep,
    Runner,
    SamplingParams,
    Sequence,
    TokenEvent,
)
from handler.errors import EngineError


class LaunchedStep(msgspec.Struct, frozen=True):
    """A step in flight."""

    batch: Batch
    pending: PendingStep


class EngineCore:
    """Everything that a step needs. Owned by one thread; no other may call it.

    With a runner that runs ahead one step stays in flight between calls of `step`, so that the device computes it
    while the host works on what came before. What it yields for a sequence that ended or was cancelled is dropped.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        scheduler: Scheduler,
        pool: BlockPool,
        model: LoadedModel,
    ) -> None:
        self.model = model
        self._runner = runner
        self._scheduler = scheduler
        self._pool = pool
        self._end_token_ids = frozenset(model.defaults.end_token_ids)
        self._sequences: dict[int, tuple[Sequence, SequenceOutput]] = {}
        self._in_flight: deque[LaunchedStep] = deque()
        self._begun: list[tuple[int, TokenEvent]] = []

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return self._scheduler.has_work or bool(self._in_flight)

    def add(self, sequence_id: int, prompt_tokens: list[int], params: SamplingParams) -> None:
        """Queue a sequence under an id of the caller's choice.

        Raises:
            EngineError: it has no tokens, could outgrow the model's context and with it the cache, or names a token
                that the model does not have, which would fail the steps of all.
        """
        if not prompt_tokens or len(prompt_tokens) + params.max_tokens > self.model.info.max_model_len:
            raise EngineError(
                f"a prompt of {len(prompt_tokens)} tokens and {params.max_tokens} more do not fit "
                f"a context of {self.model.info.max_model_len}"
            )
        self._check_vocabulary("prompt", prompt_tokens)
        self._check_vocabulary("stop_token_ids", params.stop_token_ids)
        self._check_vocabulary("logit_bias", params.logit_bias)
        self._check_vocabulary("bad_words", [token for word in params.bad_words for token in word])
        sequence = Sequence(sequence_id, prompt_tokens, params)
        output = SequenceOutput(sequence, self.model.tokenizer, self._end_token_ids)
        self._sequences[sequence_id] = (sequence, output)
        self._scheduler.add(sequence)

    def cancel(self, sequence_id: int) -> None:
        """Drop a sequence and free its blocks; one that ended already is no error."""
        entry = self._sequences.pop(sequence_id, None)
        if entry is not None:
            self._scheduler.remove(entry[0])

    def cancel_all(self) -> list[int]:
        """Drop every sequence and return their ids. Nothing is in flight any more then."""
        while self._in_flight:
            with contextlib.suppress(Exception):  # its sequences end here, whatever becomes of it
                self._in_flight.popleft().pending.wait()
        ids = list(self._sequences)
        for sequence_id in ids:
            self.cancel(sequence_id)
        return ids

    def step(self) -> list[tuple[int, TokenEvent]]:
        """Launch the next batch; (sequence id, event) for each sequence that got tokens from a step that is done."""
        events = self._collect() if self._scheduler.needs_results else []
        batch = self._scheduler.schedule()
        if batch:
            self._launch(batch)
        may_stay = 1 if batch and self._runner.runs_ahead else 0
        while len(self._in_flight) > may_stay:
            events += self._collect()
        return events

    def take_begun(self) -> list[tuple[int, TokenEvent]]:
        """Events without tokens for those that have begun since the last call, and whose prompt takes more steps.

        That may be long: whoever waits for their turn learns so that it has come.
        """
        begun, self._begun = self._begun, []
        return [(sequence_id, event) for sequence_id, event in begun if sequence_id in self._sequences]

    def idle(self) -> None:
        """Use a moment without work."""
        self._runner.idle()

    def stats(self) -> EngineStats:
        """Counts for metrics and admission."""
        scheduler, pool = self._scheduler, self._pool
        drafter = scheduler.drafter
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            kv_blocks_used=pool.num_used,
            kv_blocks_total=pool.num_blocks - 1,
            prefix_query_tokens=scheduler.prefix_query_tokens,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            num_preemptions=scheduler.num_preemptions,
            spec_drafted_tokens=0 if drafter is None else drafter.num_drafted_tokens,
            spec_accepted_tokens=0 if drafter is None else drafter.num_accepted_tokens,
        )

    def _launch(self, batch: Batch) -> None:
        now_s = time.monotonic()
        for chunk in batch:
            if chunk.sequence.first_scheduled_s is None:
                chunk.sequence.first_scheduled_s = now_s
        self._in_flight.append(LaunchedStep(batch, self._runner.launch(batch)))

    def _collect(self) -> list[tuple[int, TokenEvent]]:
        """Wait for the oldest step in flight and take in what it yields."""
        step = self._in_flight.popleft()
        sampled = dict(step.pending.wait())
        for sequence, prompt_logprobs in step.pending.prompt_logprobs():
            _, output = self._sequences.get(sequence.id, (None, None))
            if output is not None:
                output.keep_prompt_logprobs(prompt_logprobs)
        events = []
        for chunk in step.batch:
            sequence = chunk.sequence
            owner, output = self._sequences.get(sequence.id, (None, None))
            if owner is not sequence or output is None:
                continue  # it ended or was cancelled meanwhile
            tokens = sampled.get(sequence)
            if tokens is None:
                self._scheduler.advance(chunk, 0)
                if chunk.start == sequence.cached_tokens:
                    self._begun.append((sequence.id, TokenEvent(first_scheduled_s=sequence.first_scheduled_s)))
                continue
            event = output.accept(tokens)
            if event.finish_reason is FinishReason.ERROR:
                self._runner.clear(self._scheduler.forget(sequence))
            else:
                self._scheduler.advance(chunk, len(event.token_ids))
            if event.finish_reason is not None:
                self.cancel(sequence.id)
            events.append((sequence.id, event))
        return events

    def _check_vocabulary(self, field: str, tokens: Collection[int]) -> None:
        vocab_size = self.model.info.vocab_size
        for token in (min(tokens, default=0), max(tokens, default=0)):
            if not 0 <= token < vocab_size:
                raise EngineError(f"{field}: token {token} is outside the model's vocabulary of {vocab_size}")
