from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handler.engine.block_tables import BlockTables
from handler.engine.blocks import BlockPool
from handler.engine.drafting import Drafter
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Scheduler
from handler.engine.sequence import Sequence
from handler.engine.step import Batch

BLOCK, TILE = 4, 8
MAX_LEN = 64


def make(
    num_blocks: int = 1 + 64, max_batch_size: int = 4, chunk_tokens: int = 16, draft_tokens: int = 0
) -> tuple[BlockPool, Scheduler]:
    pool = BlockPool(num_blocks)
    tables = BlockTables(pool, block_size=BLOCK, tile=TILE)
    scheduler = Scheduler(
        tables,
        max_batch_size=max_batch_size,
        prefill_chunk_tokens=chunk_tokens,
        drafter=Drafter(tables, draft_tokens=draft_tokens, max_sequences=3) if draft_tokens else None,
    )
    return pool, scheduler


def sequence(number: int, prompt: list[int] | int, max_tokens: int = 4, priority: int = 0) -> Sequence:
    tokens = [1000 * number + index for index in range(prompt)] if isinstance(prompt, int) else prompt
    return Sequence(number, tokens, SamplingParams(max_tokens=max_tokens, priority=priority))


def step(scheduler: Scheduler, *, next_token: Callable[[Sequence], int] = lambda _: 7) -> tuple[Batch, list[Sequence]]:
    """What the engine does with a batch, and the sequences that ended."""
    batch = scheduler.schedule()
    sampling = [chunk.sequence for chunk in batch if chunk.samples]
    for chunk in batch:
        chunk.sequence.first_scheduled_s = chunk.sequence.first_scheduled_s or 1.0
        if chunk.sequence in sampling:
            chunk.sequence.tokens.append(next_token(chunk.sequence))
        scheduler.advance(chunk, int(chunk.sequence in sampling))
    ended = []
    for one in sampling:
        if one.num_output_tokens >= one.params.max_tokens:
            scheduler.remove(one)
            ended.append(one)
    return batch, ended


def finish(scheduler: Scheduler, limit: int = 10_000) -> list[Batch]:
    batches = []
    while scheduler.has_work:
        batches.append(step(scheduler)[0])
        assert batches[-1], "a step without work"
        assert len(batches) < limit
    return batches


class Scheduling(RuleBasedStateMachine):
    """Adds, steps and cancels in any order; everything that must hold after each of them."""

    @initialize(
        num_blocks=st.integers(MAX_LEN // BLOCK, 40), max_batch_size=st.integers(1, 5), chunk=st.integers(TILE, 40)
    )
    def start(self, num_blocks: int, max_batch_size: int, chunk: int) -> None:
        self.pool, self.scheduler = make(1 + num_blocks, max_batch_size, chunk)
        self.budget = chunk
        self.max_batch_size = max_batch_size
        self.alive: list[Sequence] = []
        self.count = 0

    @rule(
        family=st.integers(0, 2),  # prompts of one family share a beginning
        shared=st.integers(0, 30),
        own=st.integers(1, 20),
        max_tokens=st.integers(1, 14),
    )
    def add(self, family: int, shared: int, own: int, max_tokens: int) -> None:
        self.count += 1
        prompt = [family * 100 + index for index in range(shared)] + [self.count * 1000 + i for i in range(own)]
        added = sequence(self.count, prompt, max_tokens)
        self.alive.append(added)
        self.scheduler.add(added)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        cancelled = self.alive.pop(data.draw(st.integers(0, len(self.alive) - 1)))
        self.scheduler.remove(cancelled)
        assert cancelled.block_table == []

    @precondition(lambda self: self.alive)
    @rule()
    def step(self) -> None:
        oldest = self.alive[0]
        before = (oldest.num_computed_tokens, len(oldest))
        batch, ended = step(self.scheduler, next_token=lambda one: one.id * 31 + len(one))
        assert batch, "a step without work"
        assert batch[0].sequence is oldest
        assert oldest.num_computed_tokens > before[0] or len(oldest) > before[1], "the oldest stands still"
        assert len({chunk.sequence.id for chunk in batch}) == len(batch) <= self.max_batch_size
        assert sum(chunk.length for chunk in batch if chunk.length > 1) <= self.budget
        for chunk in batch:
            assert chunk.length > 0
            if chunk.length > 1:
                assert chunk.start % TILE == 0
            end = chunk.start + chunk.length
            if chunk.sequence not in ended:
                assert len(chunk.sequence.block_table) * BLOCK >= end
                assert chunk.sequence.num_computed_tokens == end
                assert end % TILE == 0 or end >= len(chunk.sequence) - 1
        for one in ended:
            self.alive.remove(one)
            assert one.block_table == []

    @invariant()
    def is_sound(self) -> None:
        self.pool.check()
        running, waiting = self.scheduler.running, list(self.scheduler.waiting)
        assert running + waiting == self.alive, "nobody is lost and nobody overtakes"
        tables = [one.block_table for one in running]
        assert self.pool.num_used == len({block for table in tables for block in table})
        assert all(one.block_table == [] and one.num_computed_tokens == 0 for one in waiting)
        for table in tables:
            assert 0 not in table
            assert len(set(table)) == len(table)
        for index, one in enumerate(running):
            for block_index, block in enumerate(one.block_table):
                for other in running[:index]:
                    if block in other.block_table:  # shared: the same tokens up to its end
                        end = (block_index + 1) * BLOCK
                        assert other.block_table.index(block) == block_index
                        assert other.tokens[:end] == one.tokens[:end]

    def teardown(self) -> None:
        if not hasattr(self, "scheduler"):
            return
        finish(self.scheduler)
        assert self.pool.num_used == 0
        self.pool.check()


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=150, stateful_step_count=40)


@settings(max_examples=80)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=12),
    st.integers(MAX_LEN // BLOCK, 24),
    st.integers(1, 4),
)
def test_everyone_ends_in_the_order_of_arrival_with_all_tokens(
    shapes: list[tuple[int, int]], num_blocks: int, max_batch_size: int
) -> None:
    pool, scheduler = make(1 + num_blocks, max_batch_size)
    sequences = [sequence(number, *shape) for number, shape in enumerate(shapes)]
    for one in sequences:
        scheduler.add(one)
    finish(scheduler)
    assert [one.num_output_tokens for one in sequences] == [max_tokens for _, max_tokens in shapes]
    assert pool.num_used == 0


def test_a_decoding_sequence_advances_beside_a_long_prompt() -> None:
    _, scheduler = make(chunk_tokens=16)
    scheduler.add(sequence(1, 5, max_tokens=20))
    step(scheduler)
    scheduler.add(sequence(2, 50))
    spans = [[(c.sequence.id, c.start, c.length) for c in step(scheduler)[0]] for _ in range(4)]
    assert spans == [
        [(1, 5, 1), (2, 0, 16)],
        [(1, 6, 1), (2, 16, 16)],
        [(1, 7, 1), (2, 32, 16)],
        [(1, 8, 1), (2, 48, 2)],
    ]


def test_prompts_share_what_is_left_of_the_budget_in_whole_tiles() -> None:
    _, scheduler = make(chunk_tokens=24)
    scheduler.add(sequence(1, 11))
    scheduler.add(sequence(2, 30))
    scheduler.add(sequence(3, 3))
    spans = [[(c.sequence.id, c.start, c.length) for c in step(scheduler)[0]] for _ in range(3)]
    assert spans == [
        [(1, 0, 11), (2, 0, 8)],
        [(1, 11, 1), (2, 8, 22)],
        [(1, 12, 1), (2, 30, 1), (3, 0, 3)],
    ]


def test_a_shared_beginning_is_computed_once() -> None:
    pool, scheduler = make()
    shared = list(range(20))
    first, second = sequence(1, [*shared, 500], max_tokens=30), sequence(2, [*shared, 600], max_tokens=30)
    scheduler.add(first)
    step(scheduler)
    step(scheduler)
    scheduler.add(second)
    batch, _ = step(scheduler)
    assert [(c.sequence.id, c.start, c.length) for c in batch][-1] == (2, 16, 5)
    assert second.cached_tokens == 16
    assert first.block_table[:4] == second.block_table[:4]
    assert set(first.block_table[4:]).isdisjoint(second.block_table[4:])
    assert (scheduler.prefix_query_tokens, scheduler.prefix_hit_tokens) == (42, 16)
    scheduler.remove(first)
    pool.check()
    assert pool.is_used(second.block_table[0])


def test_nobody_is_admitted_before_some_of_its_prompt_can_be_computed() -> None:
    _, scheduler = make(chunk_tokens=16)
    prompt = list(range(14))  # leaves 2 of the step's 16, no tile
    first, second = sequence(1, prompt), sequence(2, prompt)
    scheduler.add(first)
    scheduler.add(second)
    assert [chunk.sequence for chunk in step(scheduler)[0]] == [first]
    assert (list(scheduler.waiting), second.block_table) == ([second], [])
    step(scheduler)
    assert second.cached_tokens == TILE, "what the first has published meanwhile"
    assert scheduler.prefix_query_tokens == 28


@pytest.mark.parametrize("length", [8, 16])
def test_the_last_token_of_a_cached_prompt_is_computed_still(length: int) -> None:
    _, scheduler = make()
    scheduler.add(sequence(1, list(range(length)), max_tokens=1))
    finish(scheduler)
    again = sequence(2, list(range(length)), max_tokens=1)
    scheduler.add(again)
    [[chunk]] = finish(scheduler)
    assert (chunk.start, chunk.length) == (length - TILE, TILE)
    assert again.cached_tokens == length - TILE


def test_the_youngest_gives_way_and_comes_back_before_newer_ones() -> None:
    pool, scheduler = make(num_blocks=1 + 6, max_batch_size=3, chunk_tokens=32)
    oldest, middle, youngest, newcomer = (sequence(number, 8, max_tokens=9) for number in range(4))
    for one in (oldest, middle, youngest):
        scheduler.add(one)
    step(scheduler)
    scheduler.add(newcomer)
    step(scheduler)
    assert scheduler.num_preemptions == 1
    assert scheduler.running == [oldest, middle]
    assert list(scheduler.waiting) == [youngest, newcomer]
    assert youngest.num_output_tokens > 0
    assert youngest.block_table == []
    finish(scheduler)
    assert [one.num_output_tokens for one in (oldest, middle, youngest, newcomer)] == [9] * 4
    pool.check()


def test_the_urgent_are_admitted_first_and_equals_in_the_order_of_their_arrival() -> None:
    _, scheduler = make(max_batch_size=1)
    sequences = [sequence(number, 4, 1, priority) for number, priority in enumerate([0, 5, 0, -1, 5, -1, 0])]
    for one in sequences:
        scheduler.add(one)
    assert [chunk.sequence.id for [chunk] in finish(scheduler)] == [3, 5, 0, 2, 6, 1, 4]


def test_one_that_runs_is_not_interrupted_for_an_urgent_one() -> None:
    _, scheduler = make(max_batch_size=1)
    scheduler.add(sequence(1, 4, 3))
    step(scheduler)
    scheduler.add(sequence(2, 4, 1, priority=-5))
    assert [chunk.sequence.id for [chunk] in finish(scheduler)] == [1, 1, 2]


def test_the_least_urgent_gives_way_however_old_and_waits_in_its_place() -> None:
    pool, scheduler = make(num_blocks=1 + 7, max_batch_size=3, chunk_tokens=32)
    patient, urgent, usual = sequence(0, 8, 9, priority=1), sequence(1, 8, 9, priority=-1), sequence(2, 8, 9)
    patienter, newcomer = sequence(3, 8, 9, priority=2), sequence(4, 8, 9)
    scheduler.add(patient)
    step(scheduler)
    for one in (urgent, usual, patienter, newcomer):
        scheduler.add(one)
    step(scheduler)
    assert scheduler.running == [urgent, usual, patient]
    step(scheduler)
    assert scheduler.num_preemptions == 1
    assert scheduler.running == [urgent, usual]
    assert list(scheduler.waiting) == [newcomer, patient, patienter]
    finish(scheduler)
    assert all(one.num_output_tokens == 9 for one in (patient, urgent, usual, patienter, newcomer))
    pool.check()


def test_a_prompt_to_be_scored_is_computed_from_where_its_scores_end() -> None:
    _, scheduler = make(chunk_tokens=64)
    prompt = list(range(32))
    for scored, cached in [(0, 0), (TILE, TILE), (2 * TILE + 3, 2 * TILE), (31, 24)]:
        one = Sequence(1, prompt, SamplingParams(max_tokens=1, prompt_logprobs=0))
        one.num_scored_rows = scored
        scheduler.add(one)
        assert finish(scheduler)
        assert one.cached_tokens == cached


def test_what_a_preempted_sequence_finds_of_its_own_is_no_hit() -> None:
    _, scheduler = make(num_blocks=1 + 8, max_batch_size=2, chunk_tokens=32)
    sequences = [sequence(number, 16, max_tokens=16) for number in range(2)]
    for one in sequences:
        scheduler.add(one)
    finish(scheduler)
    assert scheduler.num_preemptions > 0
    assert (scheduler.prefix_query_tokens, scheduler.prefix_hit_tokens) == (32, 0)
    assert [one.cached_tokens for one in sequences] == [0, 0]


def test_blocks_of_a_sequence_that_ended_are_evicted_from_its_end() -> None:
    pool, scheduler = make(num_blocks=1 + 8)
    prompt = list(range(24))
    scheduler.add(sequence(1, prompt, max_tokens=1))
    finish(scheduler)
    scheduler.add(sequence(2, 12, max_tokens=1))  # takes two free blocks and the end of the first one's
    finish(scheduler)
    again = sequence(3, prompt, max_tokens=1)
    scheduler.add(again)
    finish(scheduler)
    assert again.cached_tokens == 16
    pool.check()


def test_a_sequence_that_does_not_fit_now_waits_and_holds_nothing() -> None:
    pool, scheduler = make(num_blocks=1 + 16)
    scheduler.add(sequence(1, 40, max_tokens=20))
    scheduler.add(sequence(2, 40, max_tokens=2))
    for _ in range(5):
        batch, _ = step(scheduler)
        assert [chunk.sequence.id for chunk in batch] == [1]
    assert len(scheduler.waiting) == 1
    assert pool.num_used == 11
    finish(scheduler)


def test_a_chunk_below_a_tile_is_no_schedule() -> None:
    with pytest.raises(AssertionError, match="a chunk holds a tile at least"):
        make(chunk_tokens=TILE - 1)


def drafting(number: int, length: int, max_tokens: int = 40) -> Sequence:
    """A sequence whose tokens go round and round, so that there is always a draft."""
    return sequence(number, [100 * number + index % 2 for index in range(length)], max_tokens)


def decode(scheduler: Scheduler, num_right: int) -> Batch:
    """A step of which each draft is right in its first `num_right` tokens."""
    batch = scheduler.schedule()
    for chunk in batch:
        one, sampled = chunk.sequence, 0
        if chunk.samples:
            sampled = 1 + min(num_right, len(chunk.draft))
            one.tokens += [one.tokens[-2], one.tokens[-1]] * sampled
            del one.tokens[chunk.start + chunk.length + sampled :]
        scheduler.advance(chunk, sampled)
    return batch


def drafts(batch: Batch) -> list[int]:
    return [len(chunk.draft) for chunk in batch]


def test_a_draft_comes_with_the_last_token_and_what_is_right_of_it_counts() -> None:
    pool, scheduler = make(draft_tokens=3)
    one = drafting(1, 6)
    scheduler.add(one)
    assert drafts(decode(scheduler, 0)) == [0]
    [chunk] = decode(scheduler, 2)
    assert (chunk.start, chunk.length, chunk.draft) == (6, 1, (101, 100, 101))
    assert (len(one), one.num_computed_tokens) == (10, 9)
    assert scheduler.drafter is not None
    assert (scheduler.drafter.num_drafted_tokens, scheduler.drafter.num_accepted_tokens) == (3, 2)
    assert len(one.block_table) == 3
    pool.check()


def test_the_blocks_of_a_rejected_draft_are_given_back() -> None:
    pool, scheduler = make(num_blocks=1 + 4, draft_tokens=3)
    one = drafting(1, 7)
    scheduler.add(one)
    decode(scheduler, 0)
    [chunk] = scheduler.schedule()
    assert len(chunk.draft) == 3
    assert len(one.block_table) == 3
    one.tokens.append(5)
    scheduler.advance(chunk, 1)
    assert len(one.block_table) == 2
    assert pool.num_used == 2
    pool.check()


def test_a_draft_is_cut_to_the_blocks_that_nobody_uses_and_preempts_nobody() -> None:
    _, scheduler = make(num_blocks=1 + 5, draft_tokens=4)
    for number in (1, 2):
        scheduler.add(drafting(number, 6))
    decode(scheduler, 0)
    batch = scheduler.schedule()
    assert drafts(batch) == [4, 1], "the fifth block goes to the first draft; the second ends with its own block"
    assert scheduler.num_preemptions == 0
    assert [len(one.block_table) for one in scheduler.running] == [3, 2]


def test_a_draft_ends_where_max_tokens_do() -> None:
    _, scheduler = make(draft_tokens=4)
    scheduler.add(drafting(1, 8, max_tokens=4))
    assert [drafts(decode(scheduler, 4)) for _ in range(2)] == [[0], [2]]


def test_drafts_take_what_prompts_leave_of_the_budget() -> None:
    _, scheduler = make(chunk_tokens=16, draft_tokens=4)
    scheduler.add(drafting(1, 8))
    decode(scheduler, 0)
    scheduler.add(sequence(2, 14))
    assert drafts(decode(scheduler, 4)) == [2, 0]
    scheduler.add(sequence(3, 40))
    assert drafts(decode(scheduler, 4)) == [0, 0, 0]


def test_drafts_that_are_wrong_become_short_and_rare() -> None:
    _, scheduler = make(draft_tokens=6)
    scheduler.add(drafting(1, 6))
    lengths = [length for _ in range(8) for length in drafts(decode(scheduler, 0))]
    assert lengths == [0, 4, 1, 0, 0, 0, 0, 1]


def test_a_token_in_flight_is_waited_for_where_a_draft_may_follow_it() -> None:
    _, scheduler = make(draft_tokens=4)
    repeating, new = drafting(1, 6), sequence(2, 6, max_tokens=9)
    for one in (repeating, new):
        scheduler.add(one)
        [chunk] = scheduler.schedule()
        assert scheduler.needs_results, "nobody has looked yet"
        one.tokens.append(one.tokens[-2] if one is repeating else 5)
        scheduler.advance(chunk, 1)
        [chunk] = scheduler.schedule()
        assert bool(chunk.draft) is scheduler.needs_results is (one is repeating)
        scheduler.remove(one)


def test_drafts_share_the_budget_the_oldest_first() -> None:
    _, scheduler = make(chunk_tokens=10, max_batch_size=3, draft_tokens=4)
    for number in (1, 2, 3):
        scheduler.add(drafting(number, 3))
    decode(scheduler, 0)
    assert drafts(decode(scheduler, 4)) == [4, 4, 2]


def test_a_large_batch_gets_no_drafts() -> None:
    _, scheduler = make(draft_tokens=2)
    for number in (1, 2, 3):
        scheduler.add(drafting(number, 4))
    decode(scheduler, 0)
    assert drafts(decode(scheduler, 2)) == [2, 2, 2]
    scheduler.add(drafting(4, 4))
    assert drafts(decode(scheduler, 2)) == [0, 0, 0, 0]
    scheduler.remove(scheduler.running[0])
    assert drafts(decode(scheduler, 2)) == [2, 2, 2]


def test_a_sequence_with_a_token_in_flight_goes_on_or_is_left_out() -> None:
    _, scheduler = make()
    ahead, history, ending = sequence(1, 5), sequence(2, 5), sequence(3, 5, max_tokens=1)
    history.params = SamplingParams(max_tokens=4, logprobs=0)
    for one in (ahead, ending):
        scheduler.add(one)
    first = scheduler.schedule()
    assert not scheduler.needs_results
    [chunk] = scheduler.schedule()
    assert (chunk.sequence, chunk.start, chunk.is_ahead, chunk.samples) == (ahead, 5, True, True)
    scheduler.remove(ending)
    for done in (first[0], chunk):
        ahead.tokens.append(9)
        scheduler.advance(done, 1)
    scheduler.add(history)
    assert [chunk.sequence for chunk in scheduler.schedule()] == [ahead, history]
    assert scheduler.needs_results
    assert [chunk.sequence for chunk in scheduler.schedule()] == [ahead]


def test_a_preempted_sequence_waits_for_its_token_in_flight() -> None:
    pool, scheduler = make(num_blocks=1 + 4, max_batch_size=2, chunk_tokens=16)
    old, young = sequence(1, 7, max_tokens=8), sequence(2, 8, max_tokens=8)
    for one in (old, young):
        scheduler.add(one)
    first = scheduler.schedule()
    second = scheduler.schedule()  # there is no block for the ninth token of the younger one
    assert [chunk.sequence for chunk in second] == [old]
    assert list(scheduler.waiting) == [young]
    assert scheduler.num_preemptions == 1
    for chunk in first:
        chunk.sequence.tokens.append(9)
        scheduler.advance(chunk, 1)
    assert pool.num_cached == 0, "its old blocks are not published: they may be another's"
    assert (young.num_pending_tokens, young.num_chunks_in_flight, len(young)) == (0, 0, 9)
    scheduler.remove(old)
    [chunk] = scheduler.schedule()
    assert (chunk.sequence, chunk.start, chunk.length) == (young, 0, 9)
    pool.check()
