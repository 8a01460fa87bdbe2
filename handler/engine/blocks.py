"""Which blocks of the KV cache are free, in use or cached. Pure Python; knows no tensors and no scheduling.

A full block is known by the hash of all tokens up to its end, so that a sequence with the same beginning can share
it. A block that nobody uses keeps its content, oldest first to be given away (least recently used).
Invariant: free + cached + used = num_blocks - 1; block 0 is padding and never handed out.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Sequence as SequenceOf


def hash_block(previous: bytes, tokens: SequenceOf[int]) -> bytes:
    """Hash of a block from that of the block before it and its own tokens; equal only for equal prefixes."""
    digest = hashlib.blake2b(previous, digest_size=16)
    digest.update(struct.pack(f"<{len(tokens)}q", *tokens))
    return digest.digest()


class BlockPool:
    """Reference counts of blocks and the index of cached prefixes."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, 0, -1))  # a stack: what was used last is warm, and touched already
        self._references: dict[int, int] = {}
        self._block_of: dict[bytes, int] = {}
        self._hash_of: dict[int, bytes] = {}
        self._unused: OrderedDict[int, None] = OrderedDict()  # cached blocks without users, least recent first

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` could hand out now."""
        return len(self._free) + len(self._unused)

    @property
    def num_used(self) -> int:
        """Blocks that a sequence holds."""
        return len(self._references)

    @property
    def num_cached(self) -> int:
        """Blocks that nobody holds, kept for a sequence with the same beginning."""
        return len(self._unused)

    def allocate(self) -> int | None:
        """A block of its own for one sequence, None if all are in use."""
        if self._free:
            block = self._free.pop()
        elif self._unused:
            block, _ = self._unused.popitem(last=False)
            del self._block_of[self._hash_of.pop(block)]
        else:
            return None
        self._references[block] = 1
        return block

    def lookup(self, block_hash: bytes) -> int | None:
        """The block with this content, without taking it."""
        return self._block_of.get(block_hash)

    def is_used(self, block: int) -> bool:
        """Whether some sequence holds the block."""
        return block in self._references

    def is_shared(self, block: int) -> bool:
        """Whether more than one sequence holds the block."""
        return self._references[block] > 1

    def is_published(self, block: int) -> bool:
        """Whether `lookup` finds the block."""
        return block in self._hash_of

    def share(self, block: int) -> None:
        """Take one more reference on a block that `lookup` found."""
        self._unused.pop(block, None)
        self._references[block] = self._references.get(block, 0) + 1

    def publish(self, block: int, block_hash: bytes) -> None:
        """Make a full block findable. If another block has the same content already, that one stays the known one."""
        if block_hash not in self._block_of:
            self._block_of[block_hash] = block
            self._hash_of[block] = block_hash

    def withdraw(self, blocks: list[int]) -> None:
        """Make a sequence's blocks findable no more. Who holds them keeps them."""
        for block in blocks:
            block_hash = self._hash_of.pop(block, None)
            if block_hash is not None:
                del self._block_of[block_hash]

    def release(self, blocks: list[int]) -> None:
        """Give back one reference on each of a sequence's blocks; its last ones become the first to be reused."""
        for block in reversed(blocks):
            remaining = self._references[block] - 1
            if remaining:
                self._references[block] = remaining
                continue
            del self._references[block]
            if block in self._hash_of:
                self._unused[block] = None
            else:
                self._free.append(block)

    def check(self) -> None:
        """Verify the pool's own invariants; for tests."""
        owned = [set(self._free), set(self._unused), set(self._references)]
        assert sum(map(len, owned)) == self.num_blocks - 1, "a block is lost or owned twice"
        assert set().union(*owned) == set(range(1, self.num_blocks))
        assert len(self._free) == len(owned[0])
        assert {block: block_hash for block_hash, block in self._block_of.items()} == self._hash_of
        assert set(self._unused) <= set(self._hash_of)
        assert all(count > 0 for count in self._references.values())
