"""Drives an `EngineCore` in the calling thread and takes times. Knows its public surface only, and no HTTP."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from bench.errors import BenchError
from handler.engine.core import EngineCore
from handler.engine.events import FinishReason, TokenEvent
from handler.engine.sampling_params import SamplingParams

_ids = itertools.count()


class DecodeSample(msgspec.Struct, frozen=True):
    """Steps of a full batch: tokens that all sequences got, and how long each step took."""

    num_tokens: int
    step_s: tuple[float, ...]

    @property
    def tokens_per_s(self) -> float:
        """Over all steps."""
        return self.num_tokens / sum(self.step_s)


class PrefillSample(msgspec.Struct, frozen=True):
    """One prompt computed alone, to its first token."""

    prompt_tokens: int
    cached_tokens: int
    step_s: tuple[float, ...]

    @property
    def ttft_s(self) -> float:
        """From the submission to the first token."""
        return sum(self.step_s)


class StallSample(msgspec.Struct, frozen=True):
    """Gaps between tokens of running sequences before a long prompt came, and while it was computed."""

    quiet_gaps_s: tuple[float, ...]
    gaps_s: tuple[float, ...]


class RunningBatch:
    """Sequences that all have their first token and go on decoding: greedy, not ended by any token."""

    def __init__(self, core: EngineCore, prompts: Sequence[list[int]]) -> None:
        self._core = core
        self._preemptions = core.stats().num_preemptions
        self.ids = [submit(core, prompt) for prompt in prompts]
        waiting = set(self.ids)
        while waiting:
            waiting -= {sequence_id for sequence_id, event in self.step() if event.token_ids}

    def decode(self, num_tokens: int) -> DecodeSample:
        """Go on until each sequence got that many more tokens."""
        counts = dict.fromkeys(self.ids, 0)
        step_s = []
        while min(counts.values()) < num_tokens:
            began_s = time.perf_counter()
            events = self.step()
            step_s.append(time.perf_counter() - began_s)
            for sequence_id, event in events:
                counts[sequence_id] += len(event.token_ids)
            if self._core.stats().num_preemptions > self._preemptions:
                raise BenchError("the KV cache is too small for this batch, see KV_CACHE_FRACTION: one was preempted")
        return DecodeSample(sum(counts.values()), tuple(step_s))

    def gaps(self, num_steps: int) -> tuple[float, ...]:
        """Gaps between the tokens of each sequence over some steps."""
        clock = _GapClock(self.ids)
        for _ in range(num_steps):
            clock.note(self.step())
        return tuple(clock.gaps_s)

    def gaps_beside(self, prompt: list[int]) -> tuple[float, ...]:
        """The same while `prompt` is computed, until its first token and each sequence's next one."""
        clock = _GapClock(self.ids)
        newcomer = submit(self._core, prompt)
        has_started = False
        while not has_started:
            events = self.step()
            clock.note(events)
            has_started = any(sequence_id == newcomer for sequence_id, _ in events)
        clock.note(self.step())
        return tuple(clock.gaps_s)

    def step(self) -> list[tuple[int, TokenEvent]]:
        """One step of the core, in which no sequence may end."""
        return checked(self._core.step())


@contextmanager
def running(core: EngineCore, prompts: Sequence[list[int]]) -> Iterator[RunningBatch]:
    """A batch that is dropped at the end of the `with` block."""
    try:
        yield RunningBatch(core, prompts)
    finally:
        core.cancel_all()


def first_token(core: EngineCore, prompt: list[int]) -> PrefillSample:
    """Compute one prompt with nothing beside it."""
    sequence_id = submit(core, prompt)
    step_s: list[float] = []
    found: TokenEvent | None = None
    while found is None:
        began_s = time.perf_counter()
        events = dict(checked(core.step()))
        step_s.append(time.perf_counter() - began_s)
        found = events.get(sequence_id)
    core.cancel_all()
    return PrefillSample(len(prompt), found.cached_tokens, tuple(step_s))


def submit(core: EngineCore, prompt: list[int]) -> int:
    """A greedy sequence that may fill the model's context."""
    sequence_id = next(_ids)
    room = core.model.info.max_model_len - len(prompt)
    core.add(sequence_id, prompt, SamplingParams(max_tokens=room, temperature=0.0, ignore_eos=True))
    return sequence_id


def checked(events: list[tuple[int, TokenEvent]]) -> list[tuple[int, TokenEvent]]:
    """The events of a step, none of which may be a sequence's last: a measured sequence ends when it is dropped."""
    for _, event in events:
        if event.finish_reason is FinishReason.LENGTH:
            raise BenchError("a sequence filled the model's context: ask for fewer tokens")
        if event.finish_reason is not None:
            raise BenchError(f"a sequence ended: {event.error or event.finish_reason}")
    return events


class _GapClock:
    """Notes when each sequence got its tokens."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._last_s = dict.fromkeys(ids, time.perf_counter())
        self.gaps_s: list[float] = []

    def note(self, events: list[tuple[int, TokenEvent]]) -> None:
        """Take the events of a step that has just ended."""
        now_s = time.perf_counter()
        for sequence_id, event in events:
            if event.token_ids and sequence_id in self._last_s:
                self.gaps_s.append(now_s - self._last_s[sequence_id])
                self._last_s[sequence_id] = now_s
