"""Who gets a draft: tokens guessed to follow a sequence's last one, computed in the same step. Pure Python.

Part of the scheduler and called by it alone. Drafts take what a step leaves over, rows and blocks alike: nobody waits
or is preempted for one, and blocks that a rejected draft needed go back with it.
"""

from __future__ import annotations

from handler.engine.block_tables import BlockTables
from handler.engine.lookup import PromptLookup
from handler.engine.sequence import Sequence
from handler.engine.step import Batch, Chunk


class Drafter:
    """Drafts of up to `draft_tokens`, while `max_sequences` run at most.

    In a larger batch an additional row costs as much as it may gain.
    """

    def __init__(self, tables: BlockTables, *, draft_tokens: int, max_sequences: int = 4) -> None:
        self._tables = tables
        self._draft_tokens = draft_tokens
        self._max_sequences = max_sequences
        self.num_drafted_tokens = 0
        self.num_accepted_tokens = 0

    def follow(self, sequence: Sequence) -> None:
        """Begin to learn from a new sequence."""
        sequence.lookup = PromptLookup()

    def is_worth_waiting(self, sequence: Sequence, num_running: int) -> bool:
        """Whether a sequence that could run ahead may well get a draft if it does not."""
        return (
            sequence.lookup is not None
            and num_running <= self._max_sequences
            and sequence.lookup.is_worth_waiting(len(sequence))
        )

    def add_drafts(self, batch: Batch, budget: int, num_running: int) -> None:
        """Give drafts of `budget` tokens together to the chunks of `batch` that may have one, the oldest first."""
        if num_running > self._max_sequences:
            return
        for index, chunk in enumerate(batch):
            sequence = chunk.sequence
            if sequence.lookup is None or chunk.length > 1 or chunk.is_ahead or not chunk.samples:
                continue
            left = sequence.params.max_tokens - sequence.num_output_tokens - 1  # one comes without a draft
            draft = _guess(sequence, min(self._draft_tokens, budget, left))
            draft = draft[: self._reserve(sequence, len(draft))]
            if draft:
                batch[index] = Chunk(sequence, chunk.start, chunk.length, draft)
                budget -= len(draft)

    def finish(self, chunk: Chunk, num_sampled: int) -> None:
        """Note how much of a chunk's draft was right. The first token sampled would have come without it."""
        sequence = chunk.sequence
        assert sequence.lookup is not None
        sequence.lookup.learn(num_sampled - 1, len(sequence))
        self.num_drafted_tokens += len(chunk.draft)
        self.num_accepted_tokens += num_sampled - 1
        sequence.num_computed_tokens = chunk.start + num_sampled
        self._tables.shrink(sequence, sequence.num_computed_tokens)

    def _reserve(self, sequence: Sequence, length: int) -> int:
        """Make room for `length` tokens behind the last one, as far as blocks can be had for nothing; the room made."""
        first = len(sequence)
        self._tables.grow(sequence, first + length)
        return min(length, len(sequence.block_table) * self._tables.block_size - first)


def _guess(sequence: Sequence, limit: int) -> tuple[int, ...]:
    """Up to `limit` tokens that may follow: what the sequence's grammar forces, or what its past tells."""
    assert sequence.lookup is not None
    if sequence.follower is not None and limit > 0:
        sequence.follower.catch_up(sequence.tokens, [])
        forced = sequence.follower.forced_tokens()
        if forced:
            return tuple(forced[:limit])
    return sequence.lookup.propose(sequence.tokens, limit)
