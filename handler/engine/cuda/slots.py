"""Places of sequences in the device's tables, and which entries there are out of date. Pure Python.

The device keeps a block table and the last token of each sequence in a row of its own, its slot, so that a step sends
only what changed. Nobody says when a sequence ends: the slot that was not used for longest is given away.
"""

from __future__ import annotations

from collections import OrderedDict

from handler.engine.sequence import Sequence

PADDING_SLOT = 0
"""Belongs to no sequence: its block table is all padding, its last token is nobody's."""


class _Slot:
    """What the device has of a sequence's block table: the first `num_sent` entries of `table`, up to `last_block`."""

    __slots__ = ("last_block", "num_sent", "number", "table")

    def __init__(self, number: int) -> None:
        self.number = number
        self.table: list[int] | None = None
        self.num_sent = 0
        self.last_block = 0

    def is_current(self, table: list[int]) -> bool:
        """Whether nothing changed but for new blocks at the end.

        A preempted sequence comes back with another list; a cut draft costs the same one its last block.
        """
        return self.table is table and self.num_sent <= len(table) and table[self.num_sent - 1] == self.last_block


class SlotTable:
    """Slots 1 to `num_slots`, each with room for `width` blocks.

    With slots for two full batches, no sequence of the step before loses its slot to one of this step.
    """

    def __init__(self, num_slots: int, width: int) -> None:
        self._width = width
        self._free = list(range(num_slots, 0, -1))
        self._slots: OrderedDict[Sequence, _Slot] = OrderedDict()  # least recently used first
        self._places: list[int] = []
        self._blocks: list[int] = []

    def place(self, sequence: Sequence) -> int:
        """The sequence's slot; entries of its block table that the device lacks are noted."""
        slot = self._slots.get(sequence)
        if slot is None:
            slot = _Slot(self._free.pop()) if self._free else _Slot(self._slots.popitem(last=False)[1].number)
            self._slots[sequence] = slot
        else:
            self._slots.move_to_end(sequence)
        table = sequence.block_table
        if not slot.is_current(table):
            slot.table, slot.num_sent = table, 0
        if slot.num_sent < len(table):
            assert len(table) <= self._width, "the table runs into the next slot's"
            first = slot.number * self._width
            self._places += range(first + slot.num_sent, first + len(table))
            self._blocks += table[slot.num_sent :]
            slot.num_sent, slot.last_block = len(table), table[-1]
        return slot.number

    def take_changes(self) -> tuple[list[int], list[int]]:
        """Places in the flattened table and the blocks that belong there, noted since the last call."""
        changes = self._places, self._blocks
        self._places, self._blocks = [], []
        return changes
