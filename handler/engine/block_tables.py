"""Which blocks a sequence holds: a cached prefix when it begins to run, more as it grows, none when it stops.

Part of the scheduler, and the engine thread's alone. Knows no ranks and takes nothing from anybody: where no block is
to be had it says so. Pure Python; knows no tensors.
"""

from __future__ import annotations

from handler.engine.blocks import BlockPool, hash_block
from handler.engine.sequence import Sequence


class BlockTables:
    """Writes the `block_table` and the `block_hashes` of sequences.

    Prefixes are shared in whole tiles of `tile` tokens, so that a prompt is computed in the same tiles however much of
    it was cached.
    """

    def __init__(self, pool: BlockPool, *, block_size: int, tile: int) -> None:
        assert tile % block_size == 0
        self.block_size = block_size
        self.tile = tile
        self._pool = pool

    def find_prefix(self, sequence: Sequence) -> list[int]:
        """Blocks of the longest cached prefix in whole tiles, leaving at least one token to compute.

        Rows whose logits are still to be reported are computed: the cache has none.
        """
        tile_blocks = self.tile // self.block_size
        reusable = len(sequence) - 1
        if sequence.num_scored_rows < sequence.num_rows_to_score:
            reusable = sequence.num_scored_rows
        most = reusable // self.tile * tile_blocks
        self._extend_hashes(sequence, most)
        hits: list[int] = []
        for block_hash in sequence.block_hashes[:most]:
            block = self._pool.lookup(block_hash)
            if block is None:
                break
            hits.append(block)
        return hits[: len(hits) // tile_blocks * tile_blocks]

    def begin(self, sequence: Sequence, prefix: list[int]) -> bool:
        """Give a sequence the blocks of a cached prefix and others for all its tokens, or none if they do not last."""
        needed = -(-len(sequence) // self.block_size) - len(prefix)
        taken_from_cache = sum(1 for block in prefix if not self._pool.is_used(block))
        if needed + taken_from_cache > self._pool.num_available:
            return False
        for block in prefix:
            self._pool.share(block)
        fresh = [self._pool.allocate() for _ in range(needed)]
        sequence.block_table = prefix + [block for block in fresh if block is not None]
        sequence.num_computed_tokens = len(prefix) * self.block_size
        return True

    def grow(self, sequence: Sequence, num_tokens: int) -> bool:
        """Have blocks for `num_tokens`; False if there are not enough, after taking those that there were."""
        needed = -(-num_tokens // self.block_size)
        while len(sequence.block_table) < needed:
            block = self._pool.allocate()
            if block is None:
                return False
            sequence.block_table.append(block)
        return True

    def shrink(self, sequence: Sequence, num_tokens: int) -> None:
        """Give back the blocks behind those that `num_tokens` need."""
        needed = -(-num_tokens // self.block_size)
        self._pool.release(sequence.block_table[needed:])
        del sequence.block_table[needed:]

    def publish(self, sequence: Sequence, start: int, end: int) -> None:
        """Let others find the blocks that the tokens `[start, end)` have filled."""
        first, behind = start // self.block_size, end // self.block_size
        if first == behind:
            return
        self._extend_hashes(sequence, behind)
        for index in range(first, behind):
            self._pool.publish(sequence.block_table[index], sequence.block_hashes[index])

    def withdraw(self, sequence: Sequence) -> list[int]:
        """Let nobody find what was computed for a sequence, and return the blocks that are its alone."""
        self._pool.withdraw(sequence.block_table)
        return [block for block in sequence.block_table if not self._pool.is_shared(block)]

    def unpublished(self, sequence: Sequence) -> list[int]:
        """Its blocks that nobody else has or finds: all that a step may have written and not brought to its end."""
        pool = self._pool
        return [block for block in sequence.block_table if not (pool.is_published(block) or pool.is_shared(block))]

    def release(self, sequence: Sequence) -> None:
        """Take all its blocks, and with them what was computed."""
        self._pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed_tokens = 0

    def _extend_hashes(self, sequence: Sequence, count: int) -> None:
        """Hash the sequence's first `count` blocks, as far as that has not been done."""
        hashes, size = sequence.block_hashes, self.block_size
        for index in range(len(hashes), count):
            previous = hashes[-1] if hashes else b""
            hashes.append(hash_block(previous, sequence.tokens[index * size : (index + 1) * size]))
