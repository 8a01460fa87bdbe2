from __future__ import annotations

from contextlib import suppress

from handler.demand import Demand, Expectations
from handler.occupancy import Occupancy, Stay


def counts(occupancy: Occupancy) -> tuple[int, int, int]:
    return occupancy.num_admitted, occupancy.num_waiting, occupancy.waiting_tokens


def stay_of(occupancy: Occupancy, completions: int, *, priority: int = 0) -> Stay:
    demand = Demand(completions=completions, param="n", prompt_tokens=0, max_tokens=10, priority=priority)
    return Stay(occupancy, demand, 0)


def test_places_are_held_while_the_body_runs_however_it_ends() -> None:
    occupancy = Occupancy(Expectations(None))
    with stay_of(occupancy, 2):
        assert counts(occupancy) == (2, 2, 20)
    with suppress(ZeroDivisionError), stay_of(occupancy, 3) as stay:
        stay.note_start(None)
        assert counts(occupancy) == (3, 2, 20)
        raise ZeroDivisionError
    assert counts(occupancy) == (0, 0, 0)


def test_those_with_a_priority_are_counted_while_they_wait() -> None:
    occupancy = Occupancy(Expectations(None))
    with stay_of(occupancy, 2, priority=-1) as stay, stay_of(occupancy, 1):
        assert occupancy.tokens_by_priority == {-1: 20}
        stay.note_start(None)
        assert occupancy.tokens_by_priority == {-1: 10}
        stay.note_start(None)
        assert occupancy.tokens_by_priority == {}
        assert counts(occupancy) == (3, 1, 10)
