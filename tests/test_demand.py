from __future__ import annotations

from typing import Any

import msgspec
import pytest

from handler.demand import Demand, Expectations
from handler.formats.chat import ChatFormat
from handler.formats.responses import ResponsesFormat
from handler.formats.text import TextFormat

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("form", "body", "expected"),
    [
        (ChatFormat(), CHAT, Demand(param="n")),
        (
            ChatFormat(),
            CHAT | {"n": 3, "max_completion_tokens": 7, "priority": -2},
            Demand(completions=3, param="n", max_tokens=7, priority=-2),
        ),
        (ResponsesFormat(), {"model": "m", "input": "hi", "max_output_tokens": 9}, Demand(param="input", max_tokens=9)),
        (TextFormat(), {"model": "m", "prompt": "hi"}, Demand(param="n")),
        (TextFormat(), {"model": "m", "prompt": [1, 2, 3]}, Demand(param="n", prompt_tokens=3)),
        (
            TextFormat(),
            {"model": "m", "prompt": [[1, 2], [3]], "best_of": 2},
            Demand(prompts=2, completions=2, param="prompt", prompt_tokens=3),
        ),
        (TextFormat(), {"model": "m", "prompt": ["a", "b"]}, Demand(prompts=2, param="prompt")),
        (
            TextFormat(),
            {"model": "m", "prompt": "a", "best_of": 4, "n": 2, "max_tokens": 5},
            Demand(completions=4, param="best_of", max_tokens=5),
        ),
    ],
)
def test_what_a_request_asks_for_is_told_without_tokenizing(form: Any, body: object, expected: Demand) -> None:
    assert form.demand(form.decode(msgspec.json.encode(body))) == expected


def test_prompts_of_tokens_are_counted_and_texts_are_estimated() -> None:
    expectations = Expectations(None)
    assert expectations.prompt_tokens(Demand(param="n", prompt_tokens=11), 5000) == 11
    text = Demand(param="n")
    assert expectations.prompt_tokens(text, 4000) == 1000
    for _ in range(50):
        expectations.learn_prompt(text, 8000, 4000)  # a language of two bytes a token
    assert expectations.prompt_tokens(text, 8000) == pytest.approx(4000, rel=0.05)


def test_small_bodies_and_prompts_of_tokens_teach_nothing_of_texts() -> None:
    expectations = Expectations(None)
    expectations.learn_prompt(Demand(param="n"), 300, 1)
    expectations.learn_prompt(Demand(param="n", prompt_tokens=1000), 50_000, 1000)
    assert expectations.prompt_tokens(Demand(param="n"), 4000) == 1000


@pytest.mark.parametrize(("default", "expected"), [(None, 256), (40, 40)])
def test_a_completion_without_a_limit_is_expected_to_be_like_others_without_one(
    default: int | None, expected: int
) -> None:
    expectations = Expectations(default)
    unlimited = Demand(param="n")
    assert expectations.completion_tokens(unlimited) == expected
    expectations.learn_completion(unlimited, 30)
    assert expectations.completion_tokens(unlimited) == 30


def test_completions_are_expected_to_be_like_those_that_asked_for_about_as_much() -> None:
    expectations = Expectations(None)
    long, short = Demand(param="n", max_tokens=4000), Demand(param="n", max_tokens=16, completions=2)
    expectations.learn_completion(long, 300)
    expectations.learn_completion(short, 16)
    assert expectations.completion_tokens(long) == 300
    assert expectations.completion_tokens(short) == 16
    assert expectations.completion_tokens(Demand(param="n", max_tokens=100)) == 100  # nobody has asked for that yet
    assert expectations.completion_tokens(Demand(param="n", max_tokens=2048)) == 300
