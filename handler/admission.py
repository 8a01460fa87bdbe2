"""Who may enter: bounds on what waits for the engine, decided before any work is done. Event loop only.

The sequences and the tokens that wait are bounded as a whole, which bounds memory. The time that a request is likely to
wait is bounded too, so that whoever is let in begins within QUEUE_TIMEOUT. Only what goes before a request counts
there, so that an urgent one gets in where others are refused; but nobody who is in has to leave for it. A request that
finds a free place, or nobody waiting, is not refused for its size.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import msgspec

from handler.demand import Demand, Expectations
from handler.errors import InvalidRequestError, OverloadedError, StartingError, StoppingError, UnavailableError
from handler.occupancy import Occupancy, Stay

_PROMISED_SHARE = 2 / 3
"""Of QUEUE_TIMEOUT: who is expected to wait longer is refused, so that a wait may take half as long again."""
LARGE_BODY_BYTES = 64 * 1024
"""Up to here decoding takes a fraction of a millisecond, whatever the body holds; more is much for a refusal."""
_LEAST_RETRY_S = 1.0


class Limits(msgspec.Struct, frozen=True):
    """What may wait: so many sequences beyond those that can run, so many tokens, for so many seconds."""

    sequences: int
    tokens: int
    wait_s: float


class Admission:
    """Decides by who is in already, and how fast they are served.

    Args:
        places: sequences that can run at once, as of each call; devices come and go.
        running: sequences that do run at once while others wait, fewer than that where memory is short.
        limits: what may wait.
        expectations: what requests are likely to cost.

    Attributes:
        occupancy: who is in.
        is_ready: whether an engine can serve them.
        is_stopping: whether nobody enters any more.
    """

    def __init__(
        self, places: Callable[[], int], running: Callable[[], int], limits: Limits, expectations: Expectations
    ) -> None:
        self._places = places
        self._running = running
        self._limits = limits
        self._longest_wait_s = _PROMISED_SHARE * limits.wait_s
        self._has_refused = False  # the last one that had to ask whether there is room
        self._num_beside = 0
        self.occupancy = Occupancy(expectations)
        self.is_ready = False
        self.is_stopping = False

    @property
    def is_contended(self) -> bool:
        """Whether to ask `check_head`: not while everybody gets in."""
        return self._has_refused or self.is_stopping or self.occupancy.num_admitted >= self._limits.sequences

    def check_head(self, body_bytes: int | None) -> None:
        """Refuse a request of which only the head is known, where its body would change nothing.

        A large body is not read to find out how urgent it is: it is refused where one without a priority would be.

        Raises:
            StoppingError, OverloadedError, StartingError: as `admit`.
        """
        if self.is_stopping:
            raise _stopping()
        if not self.occupancy.num_waiting:
            self._has_refused = False
        self._check_number(1)
        if self.occupancy.num_waiting and body_bytes is not None and body_bytes > LARGE_BODY_BYTES:
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
        stay = Stay(self.occupancy, demand, body_bytes)
        sequences = stay.sequences
        if sequences > self._limits.sequences:
            limit = self._places() + self._limits.sequences
            if sequences > limit:
                raise InvalidRequestError(f"The request makes {sequences} sequences, at most {limit} fit", demand.param)
        self._check_number(sequences)
        if self.occupancy.num_waiting:
            self._check_queue(sequences * stay.tokens_each, demand.priority)
        return stay

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Let in a request that takes no place: it makes no sequence, or its large body has to be decoded first.

        As many as may wait and run, so that those who wait for a thread, or for the boot, are bounded as well.

        Raises:
            StoppingError: the function is draining.
            OverloadedError, StartingError: that many are there.
        """
        if self.is_stopping:
            raise _stopping()
        if self._num_beside >= self._places() + self._limits.sequences:
            raise self._full("Too many requests are being read")
        self._num_beside += 1
        try:
            yield
        finally:
            self._num_beside -= 1

    def expected_wait_s(self, priority: int | None = None) -> float | None:
        """Seconds until a request of that priority, or one behind all others, would begin. None: nothing is known yet.

        Until then all that goes before it has been served, and one sequence that makes room for it.
        """
        occupancy = self.occupancy
        tokens = occupancy.waiting_tokens
        if priority is not None:
            of_others = occupancy.tokens_by_priority
            tokens -= sum(each for level, each in of_others.items() if level > priority)
            if priority < 0:
                tokens -= occupancy.waiting_tokens - sum(of_others.values())
        return occupancy.rate.duration_s(tokens, max(1, self._running()))

    def retry_after_s(self) -> float:
        """Seconds after which all that waits now is likely to have begun.

        Where nothing has been served yet, as long again as the first one in has waited for that.
        """
        wait_s = self.expected_wait_s()
        return max(_LEAST_RETRY_S, time.monotonic() - self.occupancy.busy_since_s if wait_s is None else wait_s)

    def _check_number(self, sequences: int) -> None:
        if self.occupancy.num_admitted + sequences <= self._limits.sequences:
            return  # they would fit even if none could run, so nobody needs to count the devices
        if self.occupancy.num_admitted + sequences > self._places() + self._limits.sequences:
            raise self._full("The queue is full")

    def _check_queue(self, tokens: int, priority: int) -> None:
        """Somebody waits already: would this request wait too long, or be too much?"""
        occupancy = self.occupancy
        self._has_refused = False
        longest_s = self._longest_wait_s
        has_room = occupancy.waiting_tokens + tokens <= self._limits.tokens
        alone_s = occupancy.rate.duration_s(occupancy.waiting_tokens, 1)
        if has_room and (alone_s is None or alone_s <= longest_s):
            return  # short, however many run at once, so nobody needs to count them
        if occupancy.num_admitted <= self._places():
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
