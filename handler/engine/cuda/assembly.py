"""Turns a batch into what the device gets, and notes who is owed which of its choices.

It is the host's work of every step, so it costs a few list operations a row, whatever the context lengths are.
"""

from __future__ import annotations

from handler.engine.cuda.inputs import HostInputs
from handler.engine.cuda.pending import Draw
from handler.engine.cuda.sampling import Mode, mode_of
from handler.engine.cuda.slots import PADDING_SLOT, SlotTable
from handler.engine.sequence import Sequence
from handler.engine.step import Chunk


class Assembly:
    """What one batch becomes: the numbers that the device gets, and who is owed which of its choices."""

    def __init__(self, slots: SlotTable) -> None:
        self._slots = slots
        self.inputs = HostInputs()
        self.mode = Mode.GREEDY
        self.num_decode_rows = 0
        self.spans: list[tuple[int, int]] = []
        self.draws: list[Draw] = []
        self.first_row_of: dict[Sequence, int] = {}  # of prompt chunks
        self.host_sequences: list[Sequence] = []
        self.host_choices: list[int] = []

    def add(self, chunk: Chunk) -> None:
        """Append a chunk; those of one token come before all others."""
        slot = self._slots.place(chunk.sequence)
        if chunk.length == 1:
            self._add_single(chunk, slot)
        else:
            self._add_prompt(chunk, slot)

    def _add_single(self, chunk: Chunk, slot: int) -> None:
        sequence, inputs, first = chunk.sequence, self.inputs, len(self.inputs.tokens)
        draft = () if sequence.params.needs_history else chunk.draft  # the host's sampler takes one row of each
        if chunk.is_ahead:
            assert not draft, "nothing is guessed behind a token that is not known"
            inputs.add_row(0, slot, chunk.start, slot)
        else:
            inputs.add_row(sequence.tokens[chunk.start], PADDING_SLOT, chunk.start, slot)
        for offset, token in enumerate(draft, start=1):
            inputs.add_row(token, PADDING_SLOT, chunk.start + offset, slot)
        self.num_decode_rows += 1 + len(draft)
        if chunk.samples:
            self._add_choices(sequence, first, slot, draft)
        else:
            inputs.add_choice(first, PADDING_SLOT, 0.0, 0.0, 0, 1.0, 0.0)  # graphs choose from every row

    def _add_prompt(self, chunk: Chunk, slot: int) -> None:
        sequence, inputs, end = chunk.sequence, self.inputs, chunk.start + chunk.length
        self.first_row_of[sequence] = len(inputs.tokens)
        inputs.tokens += sequence.tokens[chunk.start : end]
        inputs.sources += [PADDING_SLOT] * chunk.length
        inputs.positions += range(chunk.start, end)
        inputs.slots += [slot] * chunk.length
        inputs.first_rows.append(inputs.first_rows[-1] + chunk.length)
        inputs.ends.append(end)
        inputs.prompt_slots.append(slot)
        self.spans.append((chunk.length, end))
        if chunk.samples:
            self._add_choices(sequence, len(inputs.tokens) - 1, slot, ())

    def _add_choices(self, sequence: Sequence, row: int, slot: int, draft: tuple[int, ...]) -> None:
        """Choices from `row` and the rows of `draft` behind it; a draft's last token is not known in advance."""
        params, inputs, first = sequence.params, self.inputs, len(self.inputs.choice_rows)
        if params.needs_history:
            self.host_sequences.append(sequence)
            self.host_choices.append(first)
            inputs.add_choice(row, PADDING_SLOT, 0.0, 0.0, 0, 1.0, 0.0)
            return
        is_drawn = params.temperature > 0
        rng_state = sequence.rng.getstate() if is_drawn and draft else None
        for offset in range(1 + len(draft)):
            inputs.add_choice(
                row + offset,
                PADDING_SLOT if draft else slot,
                sequence.rng.random() if is_drawn else 0.0,
                params.temperature,
                params.top_k,
                params.top_p,
                params.min_p,
            )
        self.mode = max(self.mode, mode_of(params))
        self.draws.append(Draw(sequence, first, draft, rng_state))
