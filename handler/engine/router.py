"""Which of several engines a sequence goes to: the one that knows its prefix, unless it is overloaded. Pure Python.

Load is counted here, when sequences come and go: what engines report of themselves is a step old. Not safe for
threads; `pool.py` holds a lock around it.
"""

from __future__ import annotations

from collections import OrderedDict

from handler.engine.blocks import hash_block

PREFIX_TOKENS = 128
"""Prefixes are known in multiples of this, a tile of the prefix cache: less than that is never found in it."""


class Router:
    """Loads of the engines, and which of them has computed which prefix.

    The engine with the longest known prefix is chosen, unless it is overloaded: the sequence would wait there, while
    the least loaded engine has a place in its batch or a queue shorter by a whole batch. Then, and for a prefix that
    nobody knows, it is the least loaded one; among equals the one chosen longest ago, so that all caches are used.

    Args:
        num_engines: engines are called 0 to num_engines - 1.
        max_batch_size: sequences that one engine runs at once.
        max_prefixes: prefixes to remember, least recently used are forgotten first.
    """

    def __init__(self, num_engines: int, max_batch_size: int, max_prefixes: int = 32768) -> None:
        self._loads = [0] * num_engines
        self._chosen_at = [0] * num_engines
        self._num_chosen = 0
        self._max_batch_size = max_batch_size
        self._max_prefixes = max_prefixes
        self._holders: OrderedDict[bytes, int] = OrderedDict()  # engines that computed a prefix, a bit for each
        self._hashed: tuple[list[int], list[bytes]] = ([], [])

    @property
    def loads(self) -> tuple[int, ...]:
        """Sequences that each engine runs or has waiting."""
        return tuple(self._loads)

    def choose(self, prompt_tokens: list[int], engines: list[int]) -> int:
        """The one of `engines` that shall compute the sequence; its load includes it until `release`."""
        prefixes = self._prefixes(prompt_tokens) if len(self._loads) > 1 else []
        least = self._least_loaded(engines)
        preferred = self._longest_known(prefixes, engines)
        chosen = least if preferred is None or self._is_overloaded(preferred, least) else preferred
        self._loads[chosen] += 1
        self._num_chosen += 1
        self._chosen_at[chosen] = self._num_chosen
        self._remember(prefixes, chosen)
        return chosen

    def release(self, engine: int) -> None:
        """Note that a sequence of this engine has ended."""
        self._loads[engine] -= 1

    def _least_loaded(self, engines: list[int]) -> int:
        return min(engines, key=lambda engine: (self._loads[engine], self._chosen_at[engine]))

    def _longest_known(self, prefixes: list[bytes], engines: list[int]) -> int | None:
        for prefix in reversed(prefixes):
            holders = self._holders.get(prefix, 0)
            knowing = [engine for engine in engines if holders >> engine & 1]
            if knowing:
                return self._least_loaded(knowing)
        return None

    def _is_overloaded(self, preferred: int, least: int) -> bool:
        if self._loads[preferred] < self._max_batch_size:
            return False
        has_place = self._loads[least] < self._max_batch_size
        return has_place or self._loads[preferred] - self._loads[least] >= self._max_batch_size

    def _remember(self, prefixes: list[bytes], engine: int) -> None:
        for prefix in reversed(prefixes):  # the shortest one, which most prompts share, is forgotten last
            self._holders[prefix] = self._holders.get(prefix, 0) | 1 << engine
            self._holders.move_to_end(prefix)
        while len(self._holders) > self._max_prefixes:
            self._holders.popitem(last=False)

    def _prefixes(self, prompt_tokens: list[int]) -> list[bytes]:
        """Hashes of the prompt's prefixes, shortest first; the sequences of one request share one list of tokens."""
        if prompt_tokens is not self._hashed[0]:
            hashes: list[bytes] = []
            previous = b""
            for end in range(PREFIX_TOKENS, len(prompt_tokens) + 1, PREFIX_TOKENS):
                previous = hash_block(previous, prompt_tokens[end - PREFIX_TOKENS : end])
                hashes.append(previous)
            self._hashed = (prompt_tokens, hashes)
        return self._hashed[1]
