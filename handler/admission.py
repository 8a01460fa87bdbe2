"""Who may enter: a bound on the sequences in the house, decided before any work is done. Event loop only."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from handler.errors import InvalidRequestError, OverloadedError, StartingError, StoppingError

_SMOOTHING = 0.2


class Admission:
    """Counts admitted sequences, `num_admitted`: those the engine runs and those that wait for it.

    `retry_after_s` comes from the mean time that recent sequences held their place.

    Args:
        places: sequences that can run at once, as of each call; devices come and go.
        max_queued: sequences that may wait beyond those.
    """

    def __init__(self, places: Callable[[], int], max_queued: int) -> None:
        self._places = places
        self._max_queued = max_queued
        self.num_admitted = 0
        self._mean_stay_s: float | None = None
        self.is_ready = False
        self.is_stopping = False

    def admit(self, sequences: int, param: str) -> Stay:
        """Places for that many sequences, which the field `param` asks for, held while the `with` block runs.

        Raises:
            StoppingError: the function is draining.
            OverloadedError, StartingError: no room, with or without an engine to make some.
            InvalidRequestError: more sequences than there are places.
        """
        self._check(sequences, param)
        return Stay(self, sequences)

    def note_stay(self, stay_s: float) -> None:
        """Take a stay that has ended into the mean."""
        mean = self._mean_stay_s
        self._mean_stay_s = stay_s if mean is None else mean + _SMOOTHING * (stay_s - mean)

    def retry_after_s(self) -> float:
        """Seconds until a place is likely to be free; one while nothing has been measured."""
        if self._mean_stay_s is None:
            return 1.0
        places = self._places()
        return max(1.0, self._mean_stay_s * places / max(self.num_admitted, places))

    def _check(self, sequences: int, param: str) -> None:
        if self.is_stopping:
            raise StoppingError("The server is stopping; another instance will answer", 1.0)
        if self.num_admitted + sequences <= self._max_queued:
            return  # they would fit even if none could run, so nobody needs to count the devices
        limit = self._places() + self._max_queued
        if sequences > limit:
            raise InvalidRequestError(f"The request makes {sequences} sequences, at most {limit} fit", param)
        if self.num_admitted + sequences <= limit:
            return
        if not self.is_ready:
            raise StartingError("The model is still loading and the queue is full", self.retry_after_s())
        raise OverloadedError("The queue is full; try again later", self.retry_after_s())


class Stay:
    """Places held by one request."""

    __slots__ = ("_admission", "_sequences", "_start_s")

    def __init__(self, admission: Admission, sequences: int) -> None:
        self._admission = admission
        self._sequences = sequences
        self._start_s = time.monotonic()

    def __enter__(self) -> None:
        self._admission.num_admitted += self._sequences

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._admission.num_admitted -= self._sequences
        self._admission.note_stay(time.monotonic() - self._start_s)
