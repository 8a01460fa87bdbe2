"""The sequences of a step that failed, one of which may be to blame. Pure Python; engine thread only.

Each is computed alone until it is past the place where the step failed: who fails alone is to blame, and nobody else
loses anything but time. Knows no queues: the scheduler has them run.
"""

from __future__ import annotations

from collections.abc import Container

from handler.engine.sequence import Sequence
from handler.engine.step import Batch, Chunk


class Suspects:
    """Those of a failed batch that have not been tried yet, in the batch's order. Who is not `present` has left.

    Attributes:
        num_together: how many the failed step had.
        is_found: whether one has failed alone.
    """

    def __init__(self, failed: Batch, present: Container[Sequence]) -> None:
        self.num_together = len(failed)
        self.is_found = False
        self._num_acquitted = 0
        self._goals = {chunk.sequence: chunk.start + chunk.length for chunk in failed if chunk.sequence in present}

    @property
    def current(self) -> Sequence | None:
        """Who is to run alone now, None when all have."""
        return next(iter(self._goals), None)

    @property
    def were_too_many(self) -> bool:
        """Whether it was their company, now that none is left: several went well alone, and nobody failed.

        Those who were cancelled before their turn may have been to blame; they are no reason to believe in company.
        """
        return not self.is_found and self._num_acquitted > 1

    def note(self, chunk: Chunk, num_sampled: int) -> None:
        """A chunk is done, and brought its sequence `num_sampled` tokens."""
        goal = self._goals.get(chunk.sequence)
        if goal is not None and (num_sampled or chunk.start + chunk.length >= goal):
            del self._goals[chunk.sequence]
            self._num_acquitted += 1

    def drop(self, sequence: Sequence) -> None:
        """It has ended, well or not, or was cancelled."""
        self._goals.pop(sequence, None)
