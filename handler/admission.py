"""Who may enter: bounds on what waits for the engine, decided before any work is done. Event loop only.

The sequences and the tokens that wait are bounded as a whole, which bounds memory. The time that a request is likely to
wait is bounded too, so that whoever is let in begins within QUEUE_TIMEOUT. Only what goes before a request counts
there, so that an urgent one gets in where others are refused; but nobody who is in has to leave for it. A request that
finds a free place, or nobody waiting, is not refused for its size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

import msgspec

from handler.demand import Demand, Expectations
from handler.errors import InvalidRequestError, OverloadedError, StartingError, StoppingError, UnavailableError
from handler.service_rate import ServiceRate

_PROMISED_SHARE = 2 / 3
"""Of QUEUE_TIMEOUT: who is expected to wait longer is refused, so that a wait may take half as long again."""
_LARGE_BODY_BYTES = 64 * 1024
"""Reading and decoding more than this takes a millisecond and upwards, which is much for a refusal."""
_LEAST_RETRY_S = 1.0


class Limits(msgspec.Struct, frozen=True):
    """What may wait: so many sequences beyond those that can run, so many tokens, for so many seconds."""

    sequences: int
    tokens: int
    wait_s: float


class Admission:
    """Counts who is in: `num_admitted` sequences, of which `num_waiting` with `waiting_tokens` have not begun.

    The counts are kept by `Stay`. `tokens_by_priority` has those of waiting sequences whose priority is not 0.

    Args:
        places: sequences that can run at once, as of each call; devices come and go.
        running: sequences that do run at once while others wait, fewer than that where memory is short.
        limits: what may wait.
        expectations: what requests are likely to cost.
    """

    def __init__(
        self, places: Callable[[], int], running: Callable[[], int], limits: Limits, expectations: Expectations
    ) -> None:
        self._places = places
        self._running = running
        self._limits = limits
        self.tokens_by_priority: dict[int, int] = {}
        self.busy_since_s = 0.0
        self._has_refused = False  # the last one that had to ask whether there is room
        self.expectations = expectations
        self.rate = ServiceRate()
        self.num_admitted = 0
        self.num_waiting = 0
        self.waiting_tokens = 0
        self.is_ready = False
        self.is_stopping = False

    @property
    def is_contended(self) -> bool:
        """Whether to ask `check_head`: not while everybody gets in."""
        return self._has_refused or self.is_stopping or self.num_admitted >= self._limits.sequences

    def check_head(self, body_bytes: int | None) -> None:
        """Refuse a request of which only the head is known, where its body would change nothing.

        A large body is not read to find out how urgent it is: it is refused where one without a priority would be.

        Raises:
            StoppingError, OverloadedError, StartingError: as `admit`.
        """
        if self.is_stopping:
            raise _stopping()
        if not self.num_waiting:
            self._has_refused = False
        self._check_number(1)
        if self.num_waiting and body_bytes is not None and body_bytes > _LARGE_BODY_BYTES:
            self._check_queue(0, 0)

    def admit(self, demand: Demand, body_bytes: int) -> Stay:
        """Places for a request, held while the `with` block runs.

        Raises:
            StoppingError: the function is draining.
            OverloadedError, StartingError: no room, with or without an engine to make some.
            InvalidRequestError: more sequences than there are places.
        """
        if self.is_stopping:
            raise _stopping()
        stay = Stay(self, demand, body_bytes)
        sequences = stay.sequences
        if sequences > self._limits.sequences:
            limit = self._places() + self._limits.sequences
            if sequences > limit:
                raise InvalidRequestError(f"The request makes {sequences} sequences, at most {limit} fit", demand.param)
        self._check_number(sequences)
        if self.num_waiting:
            self._check_queue(sequences * stay.tokens_each, demand.priority)
        return stay

    def expected_wait_s(self, priority: int | None = None) -> float | None:
        """Seconds until a request of that priority, or one behind all others, would begin. None: nothing is known yet.

        Until then all that goes before it has been served, and one sequence that makes room for it.
        """
        tokens = self.waiting_tokens
        if priority is not None:
            of_others = self.tokens_by_priority
            tokens -= sum(each for level, each in of_others.items() if level > priority)
            if priority < 0:
                tokens -= self.waiting_tokens - sum(of_others.values())
        return self.rate.duration_s(tokens, max(1, self._running()))

    def retry_after_s(self) -> float:
        """Seconds after which all that waits now is likely to have begun.

        Where nothing has been served yet, as long again as the first one in has waited for that.
        """
        wait_s = self.expected_wait_s()
        return max(_LEAST_RETRY_S, time.monotonic() - self.busy_since_s if wait_s is None else wait_s)

    def _check_number(self, sequences: int) -> None:
        if self.num_admitted + sequences <= self._limits.sequences:
            return  # they would fit even if none could run, so nobody needs to count the devices
        if self.num_admitted + sequences > self._places() + self._limits.sequences:
            raise self._full("The queue is full")

    def _check_queue(self, tokens: int, priority: int) -> None:
        """Somebody waits already: would this request wait too long, or be too much?"""
        self._has_refused = False
        longest_s = _PROMISED_SHARE * self._limits.wait_s
        has_room = self.waiting_tokens + tokens <= self._limits.tokens
        alone_s = self.rate.duration_s(self.waiting_tokens, 1)
        if has_room and (alone_s is None or alone_s <= longest_s):
            return  # short, however many run at once, so nobody needs to count them
        if self.num_admitted <= self._places():
            return  # those have places, whether they have begun or not, and the next one goes before all others
        if not has_room:
            raise self._full("The queue has no room for so many tokens")
        wait_s = self.expected_wait_s(priority)
        if wait_s is not None and wait_s > longest_s:
            raise self._full(f"The request would wait for about {wait_s:.0f} s")

    def _full(self, reason: str) -> UnavailableError:
        self._has_refused = True
        if not self.is_ready:
            return StartingError(f"{reason}, and the model is still loading", self.retry_after_s())
        return OverloadedError(f"{reason}; try again later", self.retry_after_s())


def _stopping() -> StoppingError:
    return StoppingError("The server is stopping; another instance will answer", 1.0)


class Stay:
    """Places held by one request, and what it costs as far as that is known.

    Attributes:
        sequences: that it makes.
        tokens_each: of one sequence, prompt and completion.
        has_begun: whether any of its sequences has entered a batch.
    """

    __slots__ = (
        "_admission",
        "_began_s",
        "_body_bytes",
        "_completion_tokens",
        "_demand",
        "_num_waiting",
        "_prompt_tokens",
        "has_begun",
        "sequences",
        "tokens_each",
    )

    def __init__(self, admission: Admission, demand: Demand, body_bytes: int) -> None:
        expectations = admission.expectations
        self._admission = admission
        self._demand = demand
        self._body_bytes = body_bytes
        self.sequences = demand.sequences
        self._num_waiting = 0
        self._prompt_tokens = 0
        self._completion_tokens = expectations.completion_tokens(demand)
        self._began_s = 0.0
        self.has_begun = False
        self.tokens_each = self._each(expectations.prompt_tokens(demand, body_bytes))

    def __enter__(self) -> Stay:
        admission = self._admission
        if not admission.num_admitted:
            admission.busy_since_s = time.monotonic()
        admission.num_admitted += self.sequences
        self._wait(self.sequences, self.sequences * self.tokens_each)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._num_waiting:
            self._wait(-self._num_waiting, -self._num_waiting * self.tokens_each)
        self._admission.num_admitted -= self.sequences

    def note_prompt(self, tokens: int) -> None:
        """All prompts together turned out to have that many tokens. To be told before anything has begun."""
        self._prompt_tokens = tokens
        before, self.tokens_each = self.tokens_each, self._each(tokens)
        if self.tokens_each != before:
            self._wait(0, self._num_waiting * (self.tokens_each - before))
        self._admission.expectations.learn_prompt(self._demand, self._body_bytes, tokens)

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
        demand, admission = self._demand, self._admission
        tokens = self._prompt_tokens * demand.completions + completion_tokens
        ended_s = time.monotonic() if ended_s is None else ended_s
        admission.rate.learn(self.sequences, tokens, max(0.0, ended_s - self._began_s))
        if by_itself:
            admission.expectations.learn_completion(demand, completion_tokens / self.sequences)

    def _each(self, prompt_tokens: float) -> int:
        return math.ceil(prompt_tokens / self._demand.prompts + self._completion_tokens) or 1

    def _wait(self, sequences: int, tokens: int) -> None:
        """Count so many more as waiting, or fewer if they are negative."""
        self._num_waiting += sequences
        admission = self._admission
        admission.num_waiting += sequences
        admission.waiting_tokens += tokens
        priority = self._demand.priority
        if priority:
            left = admission.tokens_by_priority.get(priority, 0) + tokens
            admission.tokens_by_priority[priority] = left
            if not left:
                del admission.tokens_by_priority[priority]
