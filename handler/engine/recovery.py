"""How work goes on after a step that failed: who is tried, how many may run together, and when there is no use.

A step that fails fails nobody yet. Its sequences are suspects, and the scheduler has them run alone. Who fails alone is
to blame. Where that is nobody, there were too many: half of them may run together then, and one more now and then.
Engine thread only; knows no queues, no blocks and no device but for what its errors say.
"""

from __future__ import annotations

import logging
from collections.abc import Container

from handler.engine.faults import is_device_lost
from handler.engine.sequence import Sequence
from handler.engine.step import Batch
from handler.engine.suspects import Suspects
from handler.errors import EngineLostError

logger = logging.getLogger(__name__)

_STEPS_TO_GROW = 64
"""Steps that have to go well before one sequence more may run together, after there were too many."""

_MOST_FAILURES_IN_A_ROW = 8
"""Steps of single sequences that may fail with no good one between them; after that it is not the sequences."""


class StepFailedError(Exception):
    """The runner failed with a batch; the reason is the cause. Never leaves the core."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch


class Recovery:
    """What is remembered of steps that failed.

    Attributes:
        room: sequences that may run together now; fewer than usual after there were too many.
        suspects: who is being tried, None while there is no trial.
        num_failures_in_a_row: of single sequences; whoever takes in a step that went well sets it to 0.
    """

    def __init__(self, max_batch_size: int) -> None:
        self.room = max_batch_size
        self.suspects: Suspects | None = None
        self.num_failures_in_a_row = 0
        self._max_batch_size = max_batch_size
        self._steps_until_growth = 0

    def examine(self, failure: StepFailedError) -> Exception:
        """What has made a step fail, and is logged here.

        Raises:
            EngineLostError: the device computes nothing any more.
        """
        cause = failure.__cause__
        assert isinstance(cause, Exception)
        if is_device_lost(cause):
            raise EngineLostError(f"the device is lost: {type(cause).__name__}") from cause
        logger.error("a step of %d sequences failed", len(failure.batch), exc_info=cause)
        cause.__traceback__ = None  # it holds the step's tensors
        if len(failure.batch) == 1:
            self.num_failures_in_a_row += 1
        if self.num_failures_in_a_row >= _MOST_FAILURES_IN_A_ROW:
            raise EngineLostError(
                f"{self.num_failures_in_a_row} steps in a row failed: {type(cause).__name__}"
            ) from cause
        return cause

    def accuse(self, failed: Batch, present: Container[Sequence]) -> None:
        """Try those of a failed step that are still there; if it had one only, that is to blame."""
        if len(failed) > 1:
            self.suspects = Suspects(failed, present)
        elif self.suspects is not None:
            self.suspects.is_found = True

    def close(self) -> None:
        """End the trial: nobody is left to be tried."""
        suspects, self.suspects = self.suspects, None
        if suspects is not None and suspects.were_too_many:
            self.room = -(-suspects.num_together // 2)
            self._steps_until_growth = _STEPS_TO_GROW

    def grow(self) -> None:
        """A step begins; after some with fewer sequences than there might be, let there be one more."""
        if self.room == self._max_batch_size:
            return
        self._steps_until_growth -= 1
        if self._steps_until_growth <= 0:
            self.room += 1
            self._steps_until_growth = _STEPS_TO_GROW
