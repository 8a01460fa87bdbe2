from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.lengths import Fixed, Uniform
from bench.traces import TraceRequest
from bench.workload import Prefix, Questions, long_text, long_tokens, story_prompt


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


def test_questions_have_the_lengths_that_were_drawn() -> None:
    questions = Questions(0, Uniform(low=5, high=9), Uniform(low=2, high=4))
    drawn = [questions.question(number) for number in range(300)]
    assert {len(each.prompt.split()) for each in drawn} == {5, 6, 7, 8, 9}
    assert {each.max_tokens for each in drawn} == {2, 3, 4}
    assert [len(Questions(0, Fixed(tokens=n), Fixed(tokens=1)).question(0).prompt.split()) for n in (1, 2, 40_000)] == [
        1, 2, 40_000,
    ]  # fmt: skip


def test_questions_are_those_of_their_number_whoever_asks() -> None:
    one, other = (Questions(4, Fixed(tokens=9), Uniform(low=1, high=99)) for _ in range(2))
    assert [one.question(number) for number in (5, 2, 9)] == [other.question(number) for number in (5, 2, 9)]
    assert one.question(2) != Questions(5, Fixed(tokens=9), Uniform(low=1, high=99)).question(2)


def test_each_question_begins_with_its_own_number() -> None:
    questions = Questions(0, Fixed(tokens=8), Fixed(tokens=1))
    assert [questions.question(number).prompt.split()[0] for number in range(50)] == [str(n) for n in range(50)]


def test_a_share_of_the_questions_begins_with_one_of_the_prefixes() -> None:
    questions = Questions(0, Fixed(tokens=8), Fixed(tokens=1), Prefix(share=0.25, tokens=20, number=3))
    prompts = [questions.question(number).prompt.split() for number in range(2000)]
    shared = [tuple(prompt[:20]) for prompt in prompts if len(prompt) == 28]
    assert len(shared) / 2000 == pytest.approx(0.25, abs=0.04)
    assert len(set(shared)) == 3
    assert {len(prompt) for prompt in prompts} == {8, 28}


def test_a_trace_brings_its_lengths() -> None:
    trace = [
        TraceRequest(at_s=0.0, prompt_tokens=3, output_tokens=11),
        TraceRequest(at_s=1.0, prompt_tokens=7, output_tokens=5),
    ]
    questions = Questions(0, Fixed(tokens=99), Fixed(tokens=99), trace=trace)
    asked = [questions.question(number) for number in range(2)]
    assert [(len(each.prompt.split()), each.max_tokens) for each in asked] == [(3, 11), (7, 5)]
