"""One loaded model and its step: schedule, run, post-process. Synchronous; `engine.py` runs it in its thread.

A step that fails fails nobody yet: `recovery.py` says how work goes on, and who fails alone ends with an error.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque

import msgspec

from handler.engine.blocks import BlockPool
from handler.engine.events import FinishReason, TokenEvent, failure_event
from handler.engine.faults import is_device_lost
from handler.engine.loaded import LoadedModel
from handler.engine.output import SequenceOutput
from handler.engine.recovery import StepFailedError
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Scheduler
from handler.engine.sequence import Sequence
from handler.engine.status import EngineStats
from handler.engine.step import Batch, PendingStep, Runner, SampledToken
from handler.errors import EngineLostError

logger = logging.getLogger(__name__)

Events = list[tuple[int, TokenEvent]]


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
        self._recovery = scheduler.recovery
        self._pool = pool
        self._end_token_ids = frozenset(model.defaults.end_token_ids)
        self._sequences: dict[int, tuple[Sequence, SequenceOutput]] = {}
        self._in_flight: deque[LaunchedStep] = deque()
        self._begun: list[tuple[int, TokenEvent]] = []
        self._yielded: Events = []  # by the step that runs
        self._may_prepare = True

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
        self.model.check_sequence(prompt_tokens, params)
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
        self._abandon_steps()
        ids = list(self._sequences)
        for sequence_id in ids:
            self.cancel(sequence_id)
        return ids

    def fail_all(self, error: Exception) -> Events:
        """End every sequence after a step that raised; what that had yielded comes first."""
        yielded, self._yielded = self._yielded, []
        event = failure_event(error)
        return yielded + [(sequence_id, event) for sequence_id in self.cancel_all()]

    def step(self) -> Events:
        """Launch the next batch; (sequence id, event) for each sequence that got tokens from a step that is done.

        Raises:
            EngineLostError: the device computes nothing any more.
        """
        self._yielded = []
        try:
            if self._scheduler.needs_results:
                self._collect()
            batch = self._scheduler.schedule()
            if batch:
                self._launch(batch)
            may_stay = 1 if batch and self._runner.runs_ahead and not self._scheduler.is_on_trial else 0
            while len(self._in_flight) > may_stay:
                self._collect()
        except StepFailedError as failure:
            self._recover(failure)
        return self._yielded

    def take_begun(self) -> list[tuple[int, TokenEvent]]:
        """Events without tokens for those that have begun since the last call, and whose prompt takes more steps.

        That may be long: whoever waits for their turn learns so that it has come.
        """
        begun, self._begun = self._begun, []
        return [(sequence_id, event) for sequence_id, event in begun if sequence_id in self._sequences]

    def idle(self) -> None:
        """Use a moment without work. If that fails there are no more preparations, which nobody is owed.

        Raises:
            EngineLostError: the device computes nothing any more.
        """
        if not self._may_prepare:
            return
        try:
            self._runner.idle()
        except Exception as error:
            self._may_prepare = False
            logger.exception("preparing steps failed and is given up")
            if is_device_lost(error):
                raise EngineLostError(f"the device is lost: {type(error).__name__}") from error

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
        try:
            pending = self._runner.launch(batch)
        except Exception as error:
            raise StepFailedError(batch) from error
        self._in_flight.append(LaunchedStep(batch, pending))

    def _collect(self) -> None:
        """Wait for the oldest step in flight and take in what it yields."""
        step = self._in_flight.popleft()
        try:
            sampled = dict(step.pending.wait())
            scored = step.pending.prompt_logprobs()
        except Exception as error:
            raise StepFailedError(step.batch) from error
        self._recovery.num_failures_in_a_row = 0
        for sequence, prompt_logprobs in scored:
            _, output = self._sequences.get(sequence.id, (None, None))
            if output is not None:
                output.keep_prompt_logprobs(prompt_logprobs)
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
            event = self._accept(output, tokens)
            if event.finish_reason is FinishReason.ERROR:
                self._clear(sequence)
            else:
                self._scheduler.advance(chunk, len(event.token_ids))
            self._yielded.append((sequence.id, event))
            if event.finish_reason is not None:
                self.cancel(sequence.id)

    def _accept(self, output: SequenceOutput, tokens: list[SampledToken]) -> TokenEvent:
        """What the tokens yield; a defect there is one sequence's, and not the step's."""
        try:
            return output.accept(tokens)
        except Exception as error:
            logger.exception("a sequence's tokens could not be taken in")
            return failure_event(error)

    def _recover(self, failure: StepFailedError) -> None:
        """Go on after a step that failed: its sequences run again, each alone, but for one that just did.

        Steps in flight are taken back too: they would be told apart from the failed one only by what they leave.
        """
        cause, batch = self._recovery.examine(failure), failure.batch
        sequence = batch[0].sequence if len(batch) == 1 else None
        self._abandon_steps()
        if sequence is not None:
            self._scheduler.forget(sequence)  # while it has its blocks: `restart` takes them
        tainted = self._scheduler.restart(batch)
        if tainted:
            self._runner.clear(tainted)
        if sequence is not None and sequence.id in self._sequences:
            self._yielded.append((sequence.id, failure_event(cause)))
            self.cancel(sequence.id)

    def _abandon_steps(self) -> None:
        """Have nothing in flight any more, whatever it would have yielded."""
        while self._in_flight:
            with contextlib.suppress(Exception):
                self._in_flight.popleft().pending.wait()

    def _clear(self, sequence: Sequence) -> None:
        """Let nothing of a sequence that failed reach others."""
        blocks = self._scheduler.forget(sequence)
        if blocks:
            self._runner.clear(blocks)
