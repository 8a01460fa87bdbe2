from __future__ import annotations

from handler.engine.block_tables import BlockTables
from handler.engine.blocks import BlockPool
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence

BLOCK, TILE = 4, 8
PROMPT = list(range(20))


def make(num_blocks: int) -> tuple[BlockPool, BlockTables]:
    pool = BlockPool(1 + num_blocks)
    return pool, BlockTables(pool, block_size=BLOCK, tile=TILE)


def sequence(tokens: list[int]) -> Sequence:
    return Sequence(1, tokens, SamplingParams(max_tokens=4))


def begun(tables: BlockTables, tokens: list[int]) -> Sequence:
    one = sequence(tokens)
    assert tables.begin(one, tables.find_prefix(one))
    return one


def test_what_is_published_is_found_in_whole_tiles() -> None:
    pool, tables = make(16)
    first = begun(tables, PROMPT)
    assert (len(first.block_table), first.num_computed_tokens) == (5, 0)
    tables.publish(first, 0, 6)
    assert not tables.find_prefix(sequence(PROMPT)), "one block is no tile"
    tables.publish(first, 6, 13)
    again = begun(tables, PROMPT)
    assert again.num_computed_tokens == TILE
    assert again.block_table[:2] == first.block_table[:2]
    pool.check()


def test_who_finds_too_few_blocks_begins_with_none() -> None:
    pool, tables = make(8)
    first = begun(tables, PROMPT)
    tables.publish(first, 0, 16)
    other = sequence(list(range(100, 117)))
    assert not tables.begin(other, [])
    assert (other.block_table, pool.num_used) == ([], 5)
    tables.release(first)
    again = sequence(PROMPT * 2)
    assert not tables.begin(again, tables.find_prefix(again)), "cached blocks that it takes are not available any more"
    assert pool.num_used == 0
    pool.check()


def test_a_table_grows_as_far_as_there_are_blocks_and_shrinks_to_what_is_needed() -> None:
    pool, tables = make(3)
    one = begun(tables, [1, 2, 3])
    assert tables.grow(one, 4)
    assert len(one.block_table) == 1
    assert not tables.grow(one, 13)
    assert len(one.block_table) == 3
    tables.shrink(one, 5)
    assert (len(one.block_table), pool.num_used) == (2, 2)
    tables.release(one)
    assert (one.block_table, one.num_computed_tokens, pool.num_used) == ([], 0, 0)
    pool.check()


def test_what_is_withdrawn_is_found_no_more_and_shared_blocks_are_not_told() -> None:
    pool, tables = make(16)
    first = begun(tables, PROMPT)
    tables.publish(first, 0, 16)
    second = begun(tables, PROMPT)
    assert tables.withdraw(second) == second.block_table[4:]
    assert not tables.find_prefix(sequence(PROMPT))
    pool.check()
