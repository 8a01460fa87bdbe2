from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.workload import long_text, long_tokens, story_prompt


class WordEncoder:
    """A token is a word."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [hash(word) for word in text.split()]


@given(st.integers(), st.integers(20, 300), st.text("abc", max_size=3))
def test_long_texts_have_the_length_that_was_asked_for(seed: int, num_tokens: int, name: str) -> None:
    encoder = WordEncoder()
    text = long_text(encoder, num_tokens, seed, name)
    assert num_tokens - 14 <= len(encoder.encode(text, add_special_tokens=False)) <= num_tokens
    assert text == long_text(encoder, num_tokens, seed, name)
    assert len(long_tokens(encoder, num_tokens, seed, name)) == num_tokens


@pytest.mark.parametrize("seed", [0, 7])
def test_no_prompt_begins_like_another(seed: int) -> None:
    prompts = [story_prompt(seed, number) for number in range(200)]
    assert len({prompt.partition(" ")[0] for prompt in prompts}) == 200
    texts = [long_text(WordEncoder(), 50, seed, str(number)) for number in range(50)]
    assert len({text[:20] for text in texts}) == 50
    assert story_prompt(1, 3) != story_prompt(2, 3)
