from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from handler.engine import router as router_module
from handler.engine.attention import TILE
from handler.engine.router import PREFIX_TOKENS, Router

ALL = [0, 1, 2]


def prompt(*blocks: int, rest: int = 0) -> list[int]:
    """A prompt of whole prefix blocks, each of one token repeated, and `rest` tokens more."""
    return [block for block in blocks for _ in range(PREFIX_TOKENS)] + [99] * rest


def test_a_prefix_is_a_tile_of_the_prefix_cache() -> None:
    assert PREFIX_TOKENS == TILE


def test_new_prompts_go_to_the_least_loaded() -> None:
    router = Router(3, max_batch_size=4)
    assert sorted(router.choose(prompt(block), ALL) for block in range(3)) == ALL
    router.release(1)
    assert router.choose(prompt(7), ALL) == 1


def test_among_equals_the_one_chosen_longest_ago_so_that_all_caches_are_used() -> None:
    router = Router(3, max_batch_size=4)
    chosen = []
    for block in range(6):
        chosen.append(router.choose(prompt(block), ALL))
        router.release(chosen[-1])
    assert sorted(chosen[:3]) == ALL
    assert chosen[3:] == chosen[:3]


def test_a_known_prefix_outweighs_the_load() -> None:
    router = Router(2, max_batch_size=4)
    knows = router.choose(prompt(1, 2, rest=5), [0, 1])
    assert [router.choose(prompt(1, 2, 3 + i), [0, 1]) for i in range(3)] == [knows] * 3


def test_the_longest_known_prefix_wins() -> None:
    router = Router(3, max_batch_size=9)
    router.choose(prompt(1), [0])
    router.choose(prompt(1, 2), [1])
    router.choose(prompt(2, 2), [2])  # its second block is the same, but not what came before it
    assert router.choose(prompt(1, 2, 2), ALL) == 1
    assert router.choose(prompt(1, 3), ALL) == 0
    assert router.choose(prompt(1, 2, 4), [0, 2]) == 0  # the one that knows more is not to be had


def test_less_than_a_block_is_no_prefix() -> None:
    router = Router(2, max_batch_size=4)
    short = prompt(rest=PREFIX_TOKENS - 1)
    assert sorted(router.choose(list(short), [0, 1]) for _ in range(2)) == [0, 1]


def test_the_sequences_of_a_request_stay_together_until_one_would_wait_in_vain() -> None:
    router = Router(2, max_batch_size=4)
    tokens = prompt(1)
    chosen = [router.choose(tokens, [0, 1]) for _ in range(8)]
    first = chosen[0]
    assert chosen == [first] * 4 + [1 - first] * 4


def test_a_full_engine_gives_way_to_one_that_has_a_place() -> None:
    router = Router(2, max_batch_size=3)
    for _ in range(2):
        router.choose(prompt(rest=1), [1])
    chosen = [router.choose(prompt(1), [0]), *(router.choose(prompt(1), [0, 1]) for _ in range(3))]
    assert chosen == [0, 0, 0, 1]


def test_a_full_engine_keeps_its_prefix_until_its_queue_is_a_batch_longer() -> None:
    router = Router(2, max_batch_size=2)
    for _ in range(2):
        router.choose(prompt(rest=1), [1])  # no place anywhere
    chosen = [router.choose(prompt(1), [0]), *(router.choose(prompt(1), [0, 1]) for _ in range(4))]
    assert chosen == [0, 0, 0, 0, 1]


def test_the_prompt_of_a_request_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    original = router_module.hash_block
    monkeypatch.setattr(
        router_module, "hash_block", lambda *arguments: hashed.append(arguments) or original(*arguments)
    )
    tokens = prompt(1, 2, 3, rest=7)
    router = Router(2, max_batch_size=4)
    for _ in range(5):
        router.choose(tokens, [0, 1])
    assert len(hashed) == 3
    alone = Router(1, max_batch_size=4)
    alone.choose(tokens, [0])  # there is nothing to choose
    assert len(hashed) == 3


def test_a_prefix_in_use_is_not_forgotten() -> None:
    router = Router(2, max_batch_size=9, max_prefixes=2)
    for block in (1, 2, 1, 3):
        router.choose(prompt(block), [1])
    router.choose(prompt(rest=1), [1])
    assert router.choose(prompt(1), [0, 1]) == 1
    assert router.choose(prompt(2), [0, 1]) == 0


def test_prefixes_are_forgotten_longest_first_and_least_recently_used_first() -> None:
    router = Router(2, max_batch_size=9, max_prefixes=3)
    router.choose(prompt(1, 2), [1])
    router.choose(prompt(3, 4), [0])  # one too many: [1, 2] goes, [1] stays
    assert router.choose(prompt(1, 2), [0, 1]) == 1
    router.choose(prompt(*range(10, 20)), [0])  # more than there is room for
    assert len(router._holders) == 3
    router.choose(prompt(rest=1), [0])
    assert router.choose(prompt(10), [0, 1]) == 0
    assert router.choose(prompt(3), [0, 1]) == 1  # forgotten


class Routing(RuleBasedStateMachine):
    """The router's promises, against a plain account of what was chosen before."""

    batch = 3

    def __init__(self) -> None:
        super().__init__()
        self.router = Router(3, max_batch_size=self.batch)
        self.in_flight: list[int] = []
        self.known: dict[int, set[tuple[int, ...]]] = {engine: set() for engine in ALL}

    def known_length(self, engine: int, blocks: tuple[int, ...]) -> int:
        lengths = [length for length in range(len(blocks) + 1) if blocks[:length] in self.known[engine] or not length]
        return max(lengths)

    @rule(
        blocks=st.lists(st.integers(0, 2), max_size=3).map(tuple),
        rest=st.integers(0, 3),
        ready=st.sets(st.sampled_from(ALL), min_size=1).map(sorted),
    )
    def choose(self, blocks: tuple[int, ...], rest: int, ready: list[int]) -> None:
        loads = self.router.loads
        chosen = self.router.choose(prompt(*blocks, rest=rest), ready)
        assert chosen in ready
        least = min(loads[engine] for engine in ready)
        lengths = {engine: self.known_length(engine, blocks) for engine in ready}
        knows_most = lengths[chosen] == max(lengths.values())
        # Affinity never makes a sequence wait that need not, nor a queue longer than the others' by more than a batch.
        assert loads[chosen] < self.batch or least >= self.batch or loads[chosen] == least
        assert loads[chosen] == least or loads[chosen] - least < self.batch
        # Load never sends a sequence away from its prefix while there is a place beside it.
        has_place = any(lengths[e] == max(lengths.values()) and loads[e] < self.batch for e in ready)
        assert knows_most or not has_place
        # Without a prefix the load decides alone.
        assert any(lengths.values()) or loads[chosen] == least
        self.in_flight.append(chosen)
        self.known[chosen] |= {blocks[:length] for length in range(1, len(blocks) + 1)}

    @precondition(lambda self: self.in_flight)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        engine = self.in_flight.pop(data.draw(st.integers(0, len(self.in_flight) - 1)))
        self.router.release(engine)

    @invariant()
    def loads_are_what_is_in_flight(self) -> None:
        assert self.router.loads == tuple(self.in_flight.count(engine) for engine in ALL)


TestRouting = Routing.TestCase
TestRouting.settings = settings(max_examples=100, stateful_step_count=40)
