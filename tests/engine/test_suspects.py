from __future__ import annotations

from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import Chunk
from handler.engine.suspects import Suspects


def chunks(count: int) -> list[Chunk]:
    return [Chunk(Sequence(number, [1] * 8, SamplingParams(max_tokens=4)), 0, 8) for number in range(count)]


def test_each_is_tried_until_it_is_past_the_place_of_the_failure() -> None:
    first, second = batch = chunks(2)
    suspects = Suspects(batch, {chunk.sequence for chunk in batch})
    assert suspects.current is first.sequence
    suspects.note(Chunk(first.sequence, 0, 4), 0)
    assert suspects.current is first.sequence
    suspects.note(Chunk(first.sequence, 4, 4), 0)
    assert suspects.current is second.sequence
    suspects.note(Chunk(second.sequence, 0, 4), 1)
    assert suspects.current is None
    assert suspects.were_too_many


def test_who_has_left_is_not_tried() -> None:
    batch = chunks(3)
    suspects = Suspects(batch, {chunk.sequence for chunk in batch[1:]})
    assert suspects.current is batch[1].sequence
    suspects.drop(batch[1].sequence)
    assert suspects.current is batch[2].sequence


def test_company_is_believed_in_where_several_went_well_alone() -> None:
    for num_cancelled, were_too_many in [(0, True), (1, True), (2, False), (3, False)]:
        batch = chunks(3)
        suspects = Suspects(batch, {chunk.sequence for chunk in batch})
        for chunk in batch[:num_cancelled]:
            suspects.drop(chunk.sequence)
        for chunk in batch[num_cancelled:]:
            suspects.note(chunk, 1)
        assert suspects.current is None
        assert suspects.were_too_many is were_too_many


def test_one_that_was_found_leaves_the_others_their_company() -> None:
    batch = chunks(3)
    suspects = Suspects(batch, {chunk.sequence for chunk in batch})
    suspects.note(batch[0], 1)
    suspects.is_found = True
    suspects.drop(batch[1].sequence)
    suspects.note(batch[2], 1)
    assert not suspects.were_too_many
