from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from handler.engine.blocks import BlockPool, hash_block


class Pool(RuleBasedStateMachine):
    """The pool beside a model of it that keeps plain lists: who holds what, and what was released when."""

    @initialize(num_blocks=st.integers(2, 9))
    def start(self, num_blocks: int) -> None:
        self.pool = BlockPool(num_blocks)
        self.total = num_blocks - 1
        self.held: list[list[int]] = []  # one table per sequence
        self.known: dict[int, bytes] = {}  # published blocks
        self.cached: list[int] = []  # published and unused, least recent first

    def users(self, block: int) -> int:
        return sum(table.count(block) for table in self.held)

    @rule(length=st.integers(1, 4))
    def take(self, length: int) -> None:
        table = []
        for _ in range(length):
            block = self.pool.allocate()
            if block is None:
                assert sum(map(len, map(set, [*self.held, table]))) >= self.total
                break
            assert block != 0
            assert self.users(block) == 0
            assert block not in table
            if block in self.known:
                assert block == self.cached.pop(0)
                assert len(self.cached) + len(set(sum(self.held, table))) + 1 == self.total, "free blocks go first"
                del self.known[block]
            table.append(block)
        if table:
            self.held.append(table)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), content=st.binary(min_size=1, max_size=1))
    def publish(self, data: st.DataObject, content: bytes) -> None:
        block = data.draw(st.sampled_from(sorted({block for table in self.held for block in table} - set(self.known))))
        self.pool.publish(block, content)
        if content not in self.known.values():
            self.known[block] = content
        assert self.known.get(self.pool.lookup(content) or 0) == content

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def share(self, data: st.DataObject) -> None:
        block, content = data.draw(st.sampled_from(sorted(self.known.items())))
        assert self.pool.lookup(content) == block
        self.pool.share(block)
        if block in self.cached:
            self.cached.remove(block)
        self.held.append([block])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        table = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(table)
        self.cached += [block for block in reversed(table) if block in self.known and not self.users(block)]

    @invariant()
    def agrees(self) -> None:
        self.pool.check()
        used = {block for table in self.held for block in table}
        assert self.pool.num_used == len(used)
        assert self.pool.num_cached == len(self.cached)
        assert self.pool.num_available == self.total - len(used)
        assert all(self.pool.is_used(block) == (block in used) for block in range(1, self.total + 1))
        assert all(self.pool.lookup(content) == block for block, content in self.known.items())


Pool.publish = precondition(  # type: ignore[method-assign]
    lambda self: {block for table in self.held for block in table} - set(self.known)
)(Pool.publish)
TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=150, stateful_step_count=30)


def test_the_least_recently_used_is_given_away_first() -> None:
    pool = BlockPool(5)
    tables = [[pool.allocate(), pool.allocate()] for _ in range(2)]
    hashes = {}
    for block in [block for table in tables for block in table]:
        assert block is not None
        hashes[block] = b"%d" % block
        pool.publish(block, hashes[block])
    first, second = ([block for block in table if block is not None] for table in tables)
    pool.release(first)
    pool.release(second)
    pool.share(first[0])  # used again: now the most recent
    pool.release(first[:1])
    assert [pool.allocate() for _ in range(5)] == [first[1], second[1], second[0], first[0], None]
    assert all(pool.lookup(block_hash) is None for block_hash in hashes.values())


def test_a_second_block_of_the_same_content_is_not_kept() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(), pool.allocate()
    assert first is not None
    assert second is not None
    pool.publish(first, b"x")
    pool.publish(second, b"x")
    pool.release([second])
    assert pool.lookup(b"x") == first
    assert (pool.num_cached, pool.num_available) == (0, 1)
    pool.check()


def test_check_notices_a_lost_block() -> None:
    pool = BlockPool(3)
    pool._free.pop()
    with pytest.raises(AssertionError, match="lost or owned twice"):
        pool.check()


def test_a_hash_stands_for_all_tokens_before_it() -> None:
    hashes = {
        hash_block(b"", [1, 2, 3, 4]),
        hash_block(b"", [1, 2, 4, 3]),
        hash_block(hash_block(b"", [1, 2]), [3, 4]),
        hash_block(hash_block(b"", [0, 2]), [3, 4]),
        hash_block(b"", [2**40, 2, 3, 4]),
    }
    assert len(hashes) == 5
    assert hash_block(b"", (1, 2, 3, 4)) in hashes
