from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.engine.lookup import LONGEST, SHORTEST, PromptLookup


def propose(text: str, limit: int = 4) -> str:
    return "".join(map(chr, PromptLookup().propose(list(map(ord, text)), limit)))


def naive(tokens: list[int], limit: int) -> tuple[int, ...]:
    """The same by scanning the whole sequence."""
    for n in range(LONGEST, SHORTEST - 1, -1):
        for start in range(len(tokens) - 1, n - 1, -1):
            if len(tokens) >= n and tokens[start - n : start] == tokens[-n:]:
                grown = list(tokens)
                for position in range(start, start + limit):
                    grown.append(grown[position])
                return tuple(grown[len(tokens) :])
    return ()


def test_what_followed_the_last_time_is_proposed_again() -> None:
    assert propose("the cat sat; the c") == "at s"
    assert propose("the cat sat; the c", limit=2) == "at"
    assert propose("xa1 xa2 xa") == "2 xa"


def test_the_longest_match_counts_more_than_the_latest() -> None:
    assert propose("wxyz1 yz2 wxyz", limit=1) == "1"


@pytest.mark.parametrize("text", ["", "a", "ab", "abc", "abcdefg", "abcda"])
def test_without_a_repeated_pair_there_is_no_guess(text: str) -> None:
    assert propose(text) == ""


def test_a_loop_goes_on_through_its_own_beginning() -> None:
    assert propose("ababab") == "abab"
    assert propose("aaa") == "aaaa"


def test_no_guess_where_there_is_no_room() -> None:
    assert propose("ababab", limit=0) == ""
    assert propose("ababab", limit=-1) == ""


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.lists(st.integers(0, 3), max_size=4), max_size=10),
    st.integers(1, 4),
)
def test_the_index_grows_to_what_a_scan_finds(prompt: list[int], grown: list[list[int]], limit: int) -> None:
    lookup, tokens = PromptLookup(), list(prompt)
    for new in [[], *grown]:
        tokens += new
        assert lookup.propose(tokens, limit) == naive(tokens, limit)


def test_a_draft_is_twice_what_was_right_of_the_last_one() -> None:
    lookup, tokens = PromptLookup(), [1, 2] * 20
    lengths = []
    for accepted in (4, 8, 3, 0, 1, 2):
        lengths.append(len(lookup.propose(tokens, 100)))
        lookup.learn(accepted, len(tokens))
    assert lengths == [4, 8, 16, 6, 1, 2]


def test_guesses_that_are_always_wrong_become_rare() -> None:
    lookup, tokens = PromptLookup(), [1, 2] * 4
    drafted_at = []
    for num_tokens in range(8, 400):
        tokens.append(tokens[-2])
        if lookup.propose(tokens, 8):
            drafted_at.append(num_tokens)
            lookup.learn(0, len(tokens))
    gaps = [after - before for before, after in itertools.pairwise(drafted_at)]
    assert gaps == [1, 4, 8, 16, 32, 64, 64, 64, 64, 64]


def test_one_right_guess_ends_the_pauses() -> None:
    lookup, tokens = PromptLookup(), [1, 2] * 4
    for accepted in (0, 0, 0, 1, 0):
        lookup.learn(accepted, len(tokens))
    assert lookup.is_paused(len(tokens) + 7)
    assert not lookup.is_paused(len(tokens) + 8)
    lookup.learn(0, 8)
    assert lookup.is_paused(8 + 3)


def test_a_past_that_says_nothing_is_worth_no_delay() -> None:
    lookup, tokens = PromptLookup(), []
    looked_at = []
    for token in range(40):
        tokens.append(token)
        if lookup.is_worth_waiting(len(tokens)):
            looked_at.append(len(tokens))
            assert lookup.propose(tokens, 4) == ()
    assert looked_at == [1, 3, 7, 15, 23, 31, 39]
    tokens += [0, 1]
    assert lookup.propose(tokens, 1) == (2,), "whoever need not wait looks always"
    assert lookup.propose([*tokens, 50], 1) == ()
    assert not lookup.is_worth_waiting(len(tokens) + 2)
    assert lookup.is_worth_waiting(len(tokens) + 3)
