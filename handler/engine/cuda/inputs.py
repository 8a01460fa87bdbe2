"""What a step sends to the device: one buffer of 32-bit words, written on the host and read there as named fields.

Host side and device side share `Layout`, so that neither counts offsets. Floats travel as their bits.
"""

from __future__ import annotations

from array import array

import msgspec
import torch
from torch import Tensor

from handler.engine.cuda.slots import PADDING_SLOT


class Layout(msgspec.Struct, frozen=True):
    """How many entries each part of a step has.

    rows: tokens computed. choices: rows from which a token is chosen. prompts: chunks of prompts. changes: entries of
    the block tables that are out of date.
    """

    rows: int
    choices: int
    prompts: int = 0
    changes: int = 0

    def sizes(self) -> list[int]:
        """Words of each field, in the order of `HostInputs.words` and `DeviceInputs.read`."""
        per_choice = [2, 1, 1, 1, 1, 1, 1]
        per_row = [1, 1, 1, 1]
        counts = [size * self.choices for size in per_choice] + [size * self.rows for size in per_row]
        return [*counts, self.prompts + 1, self.prompts, self.prompts, self.changes, self.changes]


class HostInputs:
    """A step as lists, in the order of its rows: single tokens first, prompt chunks behind them."""

    __slots__ = (
        "blocks",
        "choice_rows",
        "ends",
        "first_rows",
        "is_greedy",
        "min_p",
        "places",
        "positions",
        "prompt_slots",
        "slots",
        "sources",
        "stores",
        "temperatures",
        "tokens",
        "top_k",
        "top_p",
        "uniforms",
    )

    def __init__(self) -> None:
        self.uniforms: list[float] = []
        self.temperatures: list[float] = []
        self.top_p: list[float] = []
        self.min_p: list[float] = []
        self.top_k: list[int] = []
        self.choice_rows: list[int] = []
        self.stores: list[int] = []
        self.tokens: list[int] = []
        self.sources: list[int] = []
        self.positions: list[int] = []
        self.slots: list[int] = []
        self.first_rows: list[int] = [0]
        self.ends: list[int] = []
        self.prompt_slots: list[int] = []
        self.places: list[int] = []
        self.blocks: list[int] = []

    @property
    def layout(self) -> Layout:
        """Its counts."""
        return Layout(len(self.tokens), len(self.choice_rows), len(self.ends), len(self.places))

    def add_row(self, token: int, source: int, position: int, slot: int) -> None:
        """A row whose token is `token`, or the last one chosen for slot `source` unless that is the padding slot."""
        self.tokens.append(token)
        self.sources.append(source)
        self.positions.append(position)
        self.slots.append(slot)

    def add_choice(
        self, row: int, store: int, uniform: float, temperature: float, top_k: int, top_p: float, min_p: float
    ) -> None:
        """Choose a token from `row` and keep it as the last one of slot `store`."""
        self.choice_rows.append(row)
        self.stores.append(store)
        self.uniforms.append(uniform)
        self.temperatures.append(temperature)
        self.top_k.append(top_k)
        self.top_p.append(top_p)
        self.min_p.append(min_p)

    def pad(self, num_rows: int) -> None:
        """Fill up with rows of nobody, chosen greedily; only for steps that choose from every row."""
        for row in range(len(self.tokens), num_rows):
            self.add_row(0, PADDING_SLOT, 0, PADDING_SLOT)
            self.add_choice(row, PADDING_SLOT, 0.0, 0.0, 0, 1.0, 0.0)

    def words(self) -> bytearray:
        """All fields, one behind the other."""
        words = bytearray(array("d", self.uniforms).tobytes())  # first, because they need an even offset
        for floats in (self.temperatures, self.top_p, self.min_p):
            words += array("f", floats).tobytes()
        for numbers in (
            self.top_k,
            self.choice_rows,
            self.stores,
            self.tokens,
            self.sources,
            self.positions,
            self.slots,
            self.first_rows,
            self.ends,
            self.prompt_slots,
            self.places,
            self.blocks,
        ):
            words += array("i", numbers).tobytes()
        return words


class DeviceInputs(msgspec.Struct, frozen=True):
    """The same fields as views of the buffer on the device: int32 unless the name says what float it is.

    uniforms (C,) float64; temperatures, top_p, min_p (C,) float32; top_k, choice_rows, stores (C,); tokens, sources,
    positions, slots (T,); first_rows (P + 1,); ends, prompt_slots (P,); places, blocks (U,).
    """

    uniforms: Tensor
    temperatures: Tensor
    top_p: Tensor
    min_p: Tensor
    top_k: Tensor
    choice_rows: Tensor
    stores: Tensor
    tokens: Tensor
    sources: Tensor
    positions: Tensor
    slots: Tensor
    first_rows: Tensor
    ends: Tensor
    prompt_slots: Tensor
    places: Tensor
    blocks: Tensor

    @classmethod
    def read(cls, buffer: Tensor, layout: Layout) -> DeviceInputs:
        """Views of `buffer` (N,) int32, which holds what `HostInputs.words` gave."""
        sizes = layout.sizes()
        uniforms, *others = torch.split(buffer[: sum(sizes)], sizes)
        floats = [field.view(torch.float32) for field in others[:3]]
        return cls(uniforms.view(torch.float64), *floats, *others[3:])
