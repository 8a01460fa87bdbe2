from __future__ import annotations

import pytest

from handler.engine.recovery import Recovery, StepFailedError
from handler.engine.step import Batch
from handler.errors import EngineLostError
from tests.engine.test_suspects import chunks


def failed(batch: Batch, cause: Exception) -> StepFailedError:
    failure = StepFailedError(batch)
    failure.__cause__ = cause
    return failure


def test_a_trial_that_finds_nobody_takes_half_of_the_room_which_comes_back() -> None:
    recovery, batch = Recovery(4), chunks(4)
    recovery.grow()
    assert recovery.room == 4
    recovery.accuse(batch, {chunk.sequence for chunk in batch})
    assert recovery.suspects is not None
    for chunk in batch:
        recovery.suspects.note(chunk, 1)
    recovery.close()
    assert (recovery.suspects, recovery.room) == (None, 2)
    rooms = []
    for _ in range(200):
        recovery.grow()
        rooms.append(recovery.room)
    assert [rooms.index(room) + 1 for room in (3, 4)] == [64, 128]
    assert rooms[-1] == 4


def test_a_trial_that_nobody_waited_for_takes_no_room() -> None:
    recovery, batch = Recovery(4), chunks(4)
    recovery.accuse(batch, {chunk.sequence for chunk in batch})
    assert recovery.suspects is not None
    for chunk in batch:
        recovery.suspects.drop(chunk.sequence)
    recovery.close()
    assert (recovery.suspects, recovery.room) == (None, 4)


def test_who_fails_alone_is_to_blame_and_nobody_loses_room() -> None:
    recovery, batch = Recovery(4), chunks(4)
    recovery.accuse(batch, {chunk.sequence for chunk in batch})
    assert recovery.suspects is not None
    for chunk in batch[:3]:
        recovery.suspects.note(chunk, 1)
    recovery.accuse(batch[3:], set())
    recovery.close()
    assert recovery.room == 4


def test_failures_of_single_sequences_are_counted_until_one_goes_well() -> None:
    recovery = Recovery(4)
    for _ in range(2):
        for _ in range(7):
            assert isinstance(recovery.examine(failed(chunks(1), MemoryError())), MemoryError)
            recovery.examine(failed(chunks(2), MemoryError()))  # says nothing of a single one
        recovery.num_failures_in_a_row = 0
    for _ in range(7):
        recovery.examine(failed(chunks(1), MemoryError()))
    with pytest.raises(EngineLostError, match="8 steps in a row failed: MemoryError"):
        recovery.examine(failed(chunks(1), MemoryError()))


def test_a_lost_device_is_not_tried_any_further() -> None:
    with pytest.raises(EngineLostError, match="the device is lost: RuntimeError"):
        Recovery(4).examine(failed(chunks(2), RuntimeError("CUDA error: unspecified launch failure")))
