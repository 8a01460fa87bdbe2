"""Every field that says how tokens are chosen, through each endpoint that generates, as the official client sends it.

All three are asked with the same prompt tokens, so what is true of one is true of all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import httpx
import openai
import pytest

from tests.openai_client.conftest import MODEL
from tests.server import DEADLINE_S

PARIS: Any = [{"role": "user", "content": "What is the capital of France?"}]
COUNT: Any = [{"role": "user", "content": "Count: 1, 2, 3"}]
THE = 504
"""The token of "The", with which the greedy answer begins."""


class Said(NamedTuple):
    """An answer's text, how many tokens it took, and whether the limit ended it."""

    text: str
    num_tokens: int
    is_cut: bool


Ask = Callable[..., Said]


def of_chat(client: openai.OpenAI, messages: Any, limit: int, fields: dict[str, Any]) -> Said:
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=limit, extra_body=fields)
    (choice,) = answer.choices
    assert answer.usage is not None
    return Said(choice.message.content or "", answer.usage.completion_tokens, choice.finish_reason == "length")


def of_text(client: openai.OpenAI, messages: Any, limit: int, fields: dict[str, Any]) -> Said:
    root = str(client.base_url).removesuffix("/v1/")
    tokens = httpx.post(f"{root}/tokenize", json={"messages": messages}, timeout=DEADLINE_S).json()["tokens"]
    answer = client.completions.create(model=MODEL, prompt=tokens, max_tokens=limit, extra_body=fields)
    (choice,) = answer.choices
    assert answer.usage is not None
    return Said(choice.text, answer.usage.completion_tokens, choice.finish_reason == "length")


def of_responses(client: openai.OpenAI, messages: Any, limit: int, fields: dict[str, Any]) -> Said:
    answer = client.responses.create(model=MODEL, input=messages, max_output_tokens=limit, extra_body=fields)
    assert answer.usage is not None
    return Said(answer.output_text, answer.usage.output_tokens, answer.status == "incomplete")


@pytest.fixture(params=[of_chat, of_text, of_responses], scope="module")
def ask(request: pytest.FixtureRequest, client: openai.OpenAI) -> Ask:
    def ask(messages: Any = PARIS, limit: int = 12, **fields: Any) -> Said:
        said: Said = request.param(client, messages, limit, {"temperature": 0} | fields)
        return said

    return ask


@pytest.fixture(scope="module")
def plain(ask: Ask) -> Said:
    """What the model says if asked for nothing else."""
    said = ask()
    assert said.text.startswith("The capital of France is Paris")
    assert not said.is_cut
    return said


def test_a_high_temperature_strays_and_a_cut_to_one_token_does_not(ask: Ask, plain: Said) -> None:
    assert ask(temperature=2, seed=1).text != plain.text
    for cut in ({"top_p": 0.000001}, {"top_k": 1}, {"min_p": 1}):
        assert ask(temperature=2, seed=1, **cut) == plain, cut


def test_a_seed_repeats_and_another_does_not(ask: Ask) -> None:
    first, again, other = (ask(temperature=1.5, limit=6, seed=seed) for seed in (7, 7, 8))
    assert first == again != other


@pytest.mark.parametrize(("field", "value"), [("presence", 2), ("frequency", 2), ("repetition", 1.5)])
def test_a_penalty_avoids_what_was_said(ask: Ask, field: str, value: float) -> None:
    assert ask(COUNT, 24, **{f"{field}_penalty": value}) != ask(COUNT, 24)


def test_a_bias_bans_and_forces(ask: Ask) -> None:
    assert set(ask(limit=3, logit_bias={str(THE): 100}).text.split("The")) == {""}
    assert not ask(limit=3, logit_bias={str(THE): -100}).text.startswith("The")


def test_a_stop_string_ends_the_text_and_may_be_its_end(ask: Ask) -> None:
    said = ask(stop=[" Paris", "never"])
    assert (said.text, said.is_cut) == ("The capital of France is", False)
    assert ask(stop=" Paris", include_stop_str_in_output=True).text == "The capital of France is Paris"


def test_a_stop_token_ends_the_text(ask: Ask) -> None:
    assert ask(stop_token_ids=[THE]) == Said("", 1, is_cut=False)


def test_the_end_may_be_delayed_ignored_and_shown(ask: Ask, plain: Said) -> None:
    assert ask(limit=40, min_tokens=plain.num_tokens + 3).num_tokens >= plain.num_tokens + 3
    shown = ask(ignore_eos=True, skip_special_tokens=False)
    assert shown.is_cut
    assert shown.text.startswith(f"{plain.text}<|im_end|>")


def test_bad_words_are_not_said(ask: Ask, plain: Said) -> None:
    without = ask(bad_words=["Paris"])
    assert without.text.startswith("The capital of France is")
    assert "Paris" not in without.text
    phrase = ask(bad_words=["capital of"]).text
    assert "capital of" not in phrase
    assert "capital" in phrase


def test_a_priority_changes_no_token(ask: Ask, plain: Said) -> None:
    for priority in (-1, 7, None):
        assert ask(priority=priority) == plain
