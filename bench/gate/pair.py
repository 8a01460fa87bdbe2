"""The two sides of the gate, and the order in which they take turns. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

T_co = TypeVar("T_co", covariant=True)
S = TypeVar("S")


class Pair(NamedTuple, Generic[T_co]):
    """The same of both sides."""

    base: T_co
    head: T_co

    def each(self, function: Callable[[T_co], S]) -> Pair[S]:
        """What a function says of either."""
        return Pair(function(self.base), function(self.head))


def abba(turns: int, rng: random.Random) -> Iterator[int]:
    """Indices into a pair: 0, 1, 1, 0, 0, 1, ... or the other way round, as drawn; each side gets `turns` of them.

    Neighbours share the machine's mood, and neither side is always the first: a drift that is linear over the turns
    cancels out where `turns` is even.
    """
    first = rng.randrange(2)
    for turn in range(turns):
        yield from ((first, 1 - first) if turn % 2 == 0 else (1 - first, first))
