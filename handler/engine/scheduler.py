"""Decides what the next step computes: admits, chunks prompts, preempts. Pure Python; knows no tensors.

Policy: every decoding sequence advances in every step; prompts are computed beside them in chunks, at most
`prefill_chunk_tokens` a step. Sequences are ranked by their priority, those of equal priority by their arrival: the
first in rank are admitted and computed first, and when blocks run out the last in rank gives its blocks back and is
computed again later, so the first always finishes. A running sequence is not interrupted for one that waits.

When a step has failed, its sequences run alone one after the other first, to find out whose fault it was.

A step may be planned while the one before it is still in flight. A sequence whose next token is in flight goes on with
that unknown token if nothing but the device needs to know it, and else is left out until it is known.
"""

from __future__ import annotations

import itertools
from bisect import insort
from collections import deque

from handler.engine.block_tables import BlockTables
from handler.engine.drafting import Drafter
from handler.engine.recovery import Recovery
from handler.engine.sequence import Sequence
from handler.engine.step import Batch, Chunk
from handler.engine.suspects import Suspects


class Scheduler:
    """Waiting and running sequences, both in the order of their rank.

    Chunk borders lie on multiples of the tables' `tile`, so that a prompt is computed in the same tiles whatever runs
    beside it.
    """

    def __init__(
        self,
        tables: BlockTables,
        *,
        max_batch_size: int,
        prefill_chunk_tokens: int,
        drafter: Drafter | None = None,
    ) -> None:
        assert prefill_chunk_tokens >= tables.tile, "a chunk holds a tile at least"
        self._tables = tables
        self._chunk_tokens = prefill_chunk_tokens
        self.drafter = drafter
        self.recovery = Recovery(max_batch_size)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._arrivals = itertools.count()
        self.num_preemptions = 0
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence."""
        if self.drafter is not None:
            self.drafter.follow(sequence)
        sequence.rank = (sequence.params.priority, next(self._arrivals))
        insort(self.waiting, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that ended or was cancelled, wherever it is, and free its blocks."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._tables.release(sequence)
        else:
            self.waiting.remove(sequence)
        if self.recovery.suspects is not None:
            self.recovery.suspects.drop(sequence)

    def forget(self, sequence: Sequence) -> list[int]:
        """Let nobody find what was computed for a sequence that failed, and return the blocks that are its alone."""
        return self._tables.withdraw(sequence)

    def restart(self, failed: Batch) -> list[int]:
        """Take back all steps that have not come to an end; the chunks of `failed` are those of one that failed.

        Its sequences are suspects from now on. If it had one only, that is to blame, and must be removed. Returns the
        blocks that are free now and may hold anything.
        """
        tainted: list[int] = []
        for sequence in [each for each in self.running if each.num_chunks_in_flight]:
            tainted += self._tables.unpublished(sequence)
            self._put_back(sequence)
        for sequence in self.waiting:  # some may have been preempted with a chunk in flight
            if sequence.num_chunks_in_flight:
                sequence.rewind()
        self.recovery.accuse(failed, {*self.running, *self.waiting})
        return tainted

    @property
    def is_on_trial(self) -> bool:
        """Whether suspects run alone: each step is to be waited for then."""
        return self.recovery.suspects is not None

    @property
    def needs_results(self) -> bool:
        """Whether a running sequence would be left out of the next step, for it cannot go on without a token in flight.

        Who has the choice waits for the step in flight first: sequences that are left out by turns would split the
        batch in two halves for good.
        """
        return any(
            sequence.num_pending_tokens
            and not sequence.will_end
            and (not sequence.can_run_ahead or self._is_worth_waiting(sequence))
            for sequence in self.running
        )

    def schedule(self) -> Batch:
        """The chunks of the next step, which must be launched. Each chunk's tokens have a place in the blocks."""
        batch = self._plan()
        for chunk in batch:
            sequence = chunk.sequence
            sequence.num_chunks_in_flight += 1
            sequence.num_computed_tokens = chunk.start + chunk.length
            if chunk.samples:
                sequence.num_pending_tokens += 1 + len(chunk.draft)
        return batch

    def advance(self, chunk: Chunk, num_sampled: int) -> None:
        """Note that a chunk is done and that its sequence has `num_sampled` tokens more; publish what it filled.

        Not for a sequence that was removed meanwhile.
        """
        sequence = chunk.sequence
        sequence.num_chunks_in_flight -= 1
        if self.recovery.suspects is not None:
            self.recovery.suspects.note(chunk, num_sampled)
        if num_sampled:
            sequence.num_pending_tokens -= 1 + len(chunk.draft)
        if not sequence.block_table:
            return  # preempted meanwhile: what the chunk computed is lost
        end = chunk.start + chunk.length
        if chunk.draft and self.drafter is not None:
            self.drafter.finish(chunk, num_sampled)
            end = sequence.num_computed_tokens
        self._tables.publish(sequence, chunk.start, end)

    def _plan(self) -> Batch:
        if self.recovery.suspects is not None:
            chunk = self._next_trial(self.recovery.suspects)
            if chunk is not None:
                return [chunk]
        self.recovery.grow()
        batch: Batch = []
        budget = self._chunk_tokens
        index = 0
        while index < len(self.running):  # preemption shortens the list from its end
            sequence = self.running[index]
            length, budget = self._chunk_length(sequence, budget)
            start = sequence.num_computed_tokens
            if length and (self._tables.grow(sequence, start + length) or self._make_room(sequence, start + length)):
                batch.append(Chunk(sequence, start, length))
            index += 1
        while self.waiting and budget and len(self.running) < self.recovery.room:
            sequence = self.waiting[0]
            if not self._admit(sequence, budget):
                break
            insort(self.running, self.waiting.popleft(), key=_rank)
            length, budget = self._chunk_length(sequence, budget)
            if length:
                batch.append(Chunk(sequence, sequence.num_computed_tokens, length))
        if self.drafter is not None:
            self.drafter.add_drafts(batch, budget, len(self.running))
        return batch

    def _next_trial(self, suspects: Suspects) -> Chunk | None:
        """What the next suspect computes, alone; None when the trial is over."""
        while (sequence := suspects.current) is not None:
            if sequence not in self.running:
                while not self._admit(sequence, self._chunk_tokens) and self.running:
                    self._preempt(self.running[-1])
                if not sequence.block_table:
                    break  # cannot be: alone it has room
                self.waiting.remove(sequence)
                insort(self.running, sequence, key=_rank)
            length, _ = self._chunk_length(sequence, self._chunk_tokens)
            start = sequence.num_computed_tokens
            if self._make_room(sequence, start + length):
                return Chunk(sequence, start, length)
        self.recovery.close()
        for sequence in self.running[self.recovery.room :]:
            self._preempt(sequence)
        return None

    def _chunk_length(self, sequence: Sequence, budget: int) -> tuple[int, int]:
        """Tokens of the sequence to compute now, and what is left of the budget. One last token costs nothing."""
        start = sequence.num_computed_tokens
        if sequence.num_pending_tokens:
            return int(sequence.can_run_ahead), budget
        remaining = len(sequence) - start
        if remaining == 1:
            return 1, budget
        length = self._fitting(start, remaining, budget)
        return length, budget - length if length == remaining else 0

    def _fitting(self, start: int, remaining: int, budget: int) -> int:
        """How many of `remaining` tokens from `start` on a budget allows: all of them, or whole tiles."""
        if remaining <= budget:
            return remaining
        tile = self._tables.tile
        return max(0, (start + budget) // tile * tile - start)

    def _is_worth_waiting(self, sequence: Sequence) -> bool:
        return self.drafter is not None and self.drafter.is_worth_waiting(sequence, len(self.running))

    def _admit(self, sequence: Sequence, budget: int) -> bool:
        """Give a waiting sequence its cached prefix and blocks for all its tokens, or leave it as it was.

        Not before some of it can be computed: by then the prompts beside it may have published a longer prefix.
        """
        if sequence.num_chunks_in_flight:
            return False  # preempted a step ago: its tokens are not complete, and its old chunk is not to be published
        prefix = self._tables.find_prefix(sequence)
        start = len(prefix) * self._tables.block_size
        if not self._fitting(start, len(sequence) - start, budget) or not self._tables.begin(sequence, prefix):
            return False
        if sequence.first_scheduled_s is None:  # what it finds of its own after a preemption is no hit
            sequence.cached_tokens = sequence.num_computed_tokens
            self.prefix_query_tokens += len(sequence)
            self.prefix_hit_tokens += sequence.num_computed_tokens
        return True

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Have blocks for `num_tokens`, preempting later ones in rank; False if it had to preempt itself."""
        while not self._tables.grow(sequence, num_tokens):
            last = self.running[-1]
            self._preempt(last)
            if last is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Take a running sequence's blocks; it waits in its place and keeps its tokens."""
        self.running.remove(sequence)
        self._tables.release(sequence)
        insort(self.waiting, sequence, key=_rank)
        self.num_preemptions += 1

    def _put_back(self, sequence: Sequence) -> None:
        """Have a running sequence wait, as if its steps in flight had never been launched."""
        self._preempt(sequence)
        self.num_preemptions -= 1
        sequence.rewind()


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.rank
