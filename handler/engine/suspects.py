"""The sequences of a step that failed, one of which may be to blame. Pure Python; engine thread only.

Each is computed alone until it is past the place where the step failed: who fails alone is to blame, and nobody else
loses anything but time. Where nobody fails alone, it was their company, and fewer may run together.
"""

from __future__ import annotations

from handler.engine.sequence import Sequence
from handler.engine.step import Batch, Chunk


class Suspects:
    """Those of a batch that have not been tried yet, in the batch's order.

    Attributes:
        num_together: how many the failed step had.
        is_found: whether one has failed alone.
    """

    def __init__(self, batch: Batch) -> None:
        self.num_together = len(batch)
        self.is_found = False
        self._goals = {chunk.sequence: chunk.start + chunk.length for chunk in batch}

    @property
    def current(self) -> Sequence | None:
        """Who is to run alone now, None when all have."""
        return next(iter(self._goals), None)

    def note(self, chunk: Chunk, num_sampled: int) -> None:
        """A chunk is done, and brought its sequence `num_sampled` tokens."""
        goal = self._goals.get(chunk.sequence)
        if goal is not None and (num_sampled or chunk.start + chunk.length >= goal):
            del self._goals[chunk.sequence]

    def drop(self, sequence: Sequence) -> None:
        """It has ended, well or not, or was cancelled."""
        self._goals.pop(sequence, None)
