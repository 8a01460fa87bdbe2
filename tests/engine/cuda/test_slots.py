from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.engine.cuda.slots import PADDING_SLOT, SlotTable
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence

WIDTH = 6


def sequence(number: int, blocks: list[int]) -> Sequence:
    made = Sequence(number, [0], SamplingParams(max_tokens=1))
    made.block_table = blocks
    return made


class Device:
    """A block table as the device has it, changed by what is sent."""

    def __init__(self, num_slots: int) -> None:
        self.slots = SlotTable(num_slots, WIDTH)
        self.table = [0] * ((num_slots + 1) * WIDTH)

    def place(self, *sequences: Sequence) -> list[int]:
        numbers = [self.slots.place(sequence) for sequence in sequences]
        for place, block in zip(*self.slots.take_changes(), strict=True):
            self.table[place] = block
        return numbers

    def row(self, slot: int) -> list[int]:
        return self.table[slot * WIDTH : (slot + 1) * WIDTH]


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_the_device_knows_every_table_of_a_step(seed: int) -> None:
    numbers = random.Random(seed)
    batch_size = numbers.randint(1, 4)
    device = Device(2 * batch_size)
    running: list[Sequence] = []
    previous: dict[Sequence, int] = {}
    for step in range(60):
        for index, chosen in enumerate(running):
            if len(chosen.block_table) < WIDTH and numbers.random() < 0.5:
                chosen.block_table.append(numbers.randint(1, 99))
            elif numbers.random() < 0.1:  # preempted and back
                chosen.block_table = [numbers.randint(1, 99)]
            elif chosen in previous and len(chosen.block_table) > 1 and numbers.random() < 0.1:  # a draft is cut
                chosen.block_table.pop()
                if numbers.random() < 0.5:
                    chosen.block_table.append(numbers.randint(100, 199))
            elif numbers.random() < 0.1:
                running[index] = sequence(step, [numbers.randint(1, 99)])
        while len(running) < batch_size and numbers.random() < 0.7:
            running.append(sequence(step, [numbers.randint(1, 99) for _ in range(numbers.randint(1, WIDTH))]))
        batch = [chosen for chosen in running if numbers.random() < 0.8]
        slots = device.place(*batch)
        assert PADDING_SLOT not in slots
        assert len(set(slots)) == len(slots)
        for chosen, slot in zip(batch, slots, strict=True):
            assert device.row(slot)[: len(chosen.block_table)] == chosen.block_table
            assert previous.get(chosen, slot) == slot, "a sequence of the step before lost its slot"
        previous = dict(zip(batch, slots, strict=True))
    assert device.row(PADDING_SLOT) == [0] * WIDTH


def test_only_what_changed_is_sent() -> None:
    slots = SlotTable(2, WIDTH)
    first, second = sequence(1, [5, 6]), sequence(2, [7])
    places = [slots.place(first) * WIDTH, slots.place(second) * WIDTH]
    assert slots.take_changes() == ([places[0], places[0] + 1, places[1]], [5, 6, 7])
    slots.place(first)
    slots.place(second)
    assert slots.take_changes() == ([], [])
    second.block_table.append(9)
    slots.place(first)
    slots.place(second)
    assert slots.take_changes() == ([places[1] + 1], [9])


def test_a_table_that_is_too_long_never_reaches_its_neighbour() -> None:
    with pytest.raises(AssertionError, match="runs into"):
        SlotTable(2, WIDTH).place(sequence(1, list(range(1, WIDTH + 2))))
