"""Who is in, and what they cost: the sequences and tokens of requests that have been admitted. Event loop only.

Knows no limits: whether one more may enter, `admission` decides.
"""

from __future__ import annotations

import math
import time
from types import TracebackType

from handler.demand import Demand, Expectations
from handler.service_rate import ServiceRate


class Occupancy:
    """What all stays come to. They keep the counts, and have both estimates learn.

    Attributes:
        num_admitted: sequences that are in.
        num_waiting: of them, that have not begun.
        waiting_tokens: of those, prompts and what their completions are likely to be.
        tokens_by_priority: those of waiting sequences whose priority is not 0.
        busy_since_s: `time.monotonic()` when the first of those who are in came.
        expectations: what requests are likely to cost.
        rate: how fast they are served.
    """

    def __init__(self, expectations: Expectations) -> None:
        self.num_admitted = 0
        self.num_waiting = 0
        self.waiting_tokens = 0
        self.tokens_by_priority: dict[int, int] = {}
        self.busy_since_s = 0.0
        self.expectations = expectations
        self.rate = ServiceRate()


class Stay:
    """Places held by one request, and what it costs as far as that is known.

    Attributes:
        sequences: that it makes.
        tokens_each: of one sequence, prompt and completion.
        has_begun: whether any of its sequences has entered a batch.
    """

    has_begun = False
    _num_waiting = 0
    _prompt_tokens = 0
    _began_s = 0.0

    def __init__(self, occupancy: Occupancy, demand: Demand, body_bytes: int) -> None:
        expectations = occupancy.expectations
        self._occupancy = occupancy
        self._demand = demand
        self._body_bytes = body_bytes
        self.sequences = demand.prompts * demand.completions
        self._completion_tokens = expectations.completion_tokens(demand)
        self.tokens_each = self._each(expectations.prompt_tokens(demand, body_bytes))

    def __enter__(self) -> Stay:
        occupancy = self._occupancy
        if not occupancy.num_admitted:
            occupancy.busy_since_s = time.monotonic()
        occupancy.num_admitted += self.sequences
        self._wait(self.sequences, self.sequences * self.tokens_each)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._num_waiting:
            self._wait(-self._num_waiting, -self._num_waiting * self.tokens_each)
        self._occupancy.num_admitted -= self.sequences

    def note_prompt(self, tokens: int) -> None:
        """All prompts together turned out to have that many tokens. To be told before anything has begun."""
        self._prompt_tokens = tokens
        before, each = self.tokens_each, self._each(tokens)
        if each != before:
            self.tokens_each = each
            self._wait(0, self._num_waiting * (each - before))
        self._occupancy.expectations.learn_prompt(self._demand, self._body_bytes, tokens)

    def note_start(self, began_s: float | None) -> None:
        """One of its sequences entered a batch, at that `time.monotonic()` where the engine tells."""
        if not self.has_begun:
            self.has_begun = True
            self._began_s = time.monotonic() if began_s is None else began_s
        if self._num_waiting:
            self._wait(-1, -self.tokens_each)

    def note_end(self, completion_tokens: int, *, by_itself: bool, ended_s: float | None = None) -> None:
        """All its sequences ended, or were cancelled, with that many tokens together: at `ended_s`, or now."""
        if not self.has_begun:
            return
        demand, occupancy = self._demand, self._occupancy
        tokens = self._prompt_tokens * demand.completions + completion_tokens
        ended_s = time.monotonic() if ended_s is None else ended_s
        occupancy.rate.learn(self.sequences, tokens, max(0.0, ended_s - self._began_s))
        if by_itself:
            occupancy.expectations.learn_completion(demand, completion_tokens / self.sequences)

    def _each(self, prompt_tokens: float) -> int:
        return math.ceil(prompt_tokens / self._demand.prompts + self._completion_tokens) or 1

    def _wait(self, sequences: int, tokens: int) -> None:
        """Count so many more as waiting, or fewer if they are negative."""
        self._num_waiting += sequences
        occupancy = self._occupancy
        occupancy.num_waiting += sequences
        occupancy.waiting_tokens += tokens
        priority = self._demand.priority
        if priority:
            left = occupancy.tokens_by_priority.get(priority, 0) + tokens
            occupancy.tokens_by_priority[priority] = left
            if not left:
                del occupancy.tokens_by_priority[priority]
