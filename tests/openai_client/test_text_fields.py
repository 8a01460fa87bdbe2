"""Every field of a text completion, as the official client and evaluation harnesses send it."""

from __future__ import annotations

import math
from typing import Any

import openai
import pytest
from openai.types import Completion, CompletionChoice

from tests.openai_client.conftest import MODEL

NUMBERS = "1, 2, 3, 4, 5,"


def ask(client: openai.OpenAI, **fields: Any) -> Completion:
    asking: dict[str, Any] = {"model": MODEL, "prompt": NUMBERS, "temperature": 0, "max_tokens": 6} | fields
    answer: Completion = client.completions.create(**asking)
    return answer


def logprobs(choice: CompletionChoice) -> list[float | None]:
    assert choice.logprobs is not None
    return list(choice.logprobs.token_logprobs or [])


def tokens_of(client: openai.OpenAI, text: str) -> list[str]:
    found = ask(client, prompt=text, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    return found.tokens


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_begins_with_the_prompt(client: openai.OpenAI, stream: bool) -> None:
    plain = ask(client).choices[0].text
    asking: dict[str, Any] = {"model": MODEL, "prompt": [NUMBERS, "A B"], "temperature": 0, "max_tokens": 6}
    texts = {0: "", 1: ""}
    answer: Any = client.completions.create(**asking, echo=True, stream=stream)
    for part in answer if stream else [answer]:
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert texts[0] == NUMBERS + plain
    assert texts[1].startswith("A B")


def test_text_offsets_find_the_tokens(client: openai.OpenAI) -> None:
    choice = ask(client, prompt="A naïve 日本 banana,", echo=True, logprobs=1).choices[0]
    found = choice.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.text_offset is not None
    assert found.text_offset[0] == 0
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert choice.text[offset:].startswith(token) or "\ufffd" in token
    # Without an echo they count from the completion's beginning.
    alone = ask(client, prompt="A naïve 日本 banana,", logprobs=1).choices[0].logprobs
    assert alone is not None
    assert alone.text_offset == [offset - len("A naïve 日本 banana,") for offset in found.text_offset[-6:]]


def test_a_harness_scores_continuations(client: openai.OpenAI) -> None:
    """As lm-eval's `local-completions` asks, and as it reads the answer."""
    contexts = [[33, 28, 216], [33, 28, 216, 34, 28, 216]]
    continuations = [[34, 28], [35, 28]]
    prompts = [context + continuation for context, continuation in zip(contexts, continuations, strict=True)]
    answer = client.completions.create(
        model=MODEL, prompt=prompts, max_tokens=1, temperature=0, logprobs=1, echo=True, seed=1234
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice, context, prompt in zip(answer.choices, contexts, prompts, strict=True):
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert choice.logprobs.top_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == len(prompt) + 1
        scores = choice.logprobs.token_logprobs[len(context) : -1]
        tops = choice.logprobs.top_logprobs[len(context) : -1]
        assert all(score <= max(top.values()) for score, top in zip(scores, tops, strict=True))
        assert math.fsum(scores) < 0
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompts[0]) + len(prompts[1]), 2)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_a_scored_text_has_the_numbers_that_it_was_generated_with(client: openai.OpenAI, max_tokens: int) -> None:
    prompt = [33, 28, 216, 34, 28, 216] * 30
    generated = ask(client, prompt=prompt, logprobs=2, logit_bias={"216": 100}, max_tokens=8).choices[0]
    assert generated.logprobs is not None
    assert generated.logprobs.tokens is not None
    assert generated.logprobs.tokens == [" "] * 8
    whole = prompt + [216] * 8
    scored = ask(client, prompt=whole, logprobs=2, max_tokens=max_tokens, echo=True)
    (choice,) = scored.choices
    assert logprobs(choice)[len(prompt) : len(whole)] == logprobs(generated)
    assert choice.logprobs is not None
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[len(prompt) : len(whole)] == generated.logprobs.top_logprobs
    assert logprobs(choice)[0] is None
    assert choice.finish_reason == "length"
    assert scored.usage is not None
    assert scored.usage.completion_tokens == max_tokens
    assert scored.usage.prompt_tokens_details is not None
    assert scored.usage.prompt_tokens_details.cached_tokens == 0  # what is scored is computed


def test_the_best_of_several_is_returned_and_all_are_counted(client: openai.OpenAI) -> None:
    asking: dict[str, Any] = {"prompt": "Once upon", "temperature": 1.2, "seed": 3, "logprobs": 0}
    many = ask(client, n=5, **asking).choices
    means = {
        choice.text: math.fsum(value or 0 for value in logprobs(choice)) / len(logprobs(choice)) for choice in many
    }
    best = ask(client, n=2, best_of=5, **asking)
    assert [choice.text for choice in best.choices] == sorted(means, key=lambda text: -means[text])[:2]
    assert best.usage is not None
    assert best.usage.completion_tokens == 30
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="a", best_of=2, stream=True)
    assert caught.value.param == "best_of"


def test_a_suffix_is_refused_with_the_reason(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="fills no gaps") as caught:
        ask(client, suffix="the end")
    assert caught.value.param == "suffix"
    assert ask(client, suffix=None, user="u", echo=None, best_of=None).choices[0].text


def test_up_to_twenty_alternatives(client: openai.OpenAI) -> None:
    for count in (0, 20):
        found = ask(client, logprobs=count, max_tokens=1).choices[0].logprobs
        assert found is not None
        assert found.top_logprobs is not None
        assert len(found.top_logprobs[0]) in {max(1, count), count + 1}
    with pytest.raises(openai.BadRequestError):
        ask(client, logprobs=21)


def test_several_prompts_answer_in_order_with_their_completions_side_by_side(client: openai.OpenAI) -> None:
    answer = ask(client, prompt=["1, 2,", "a b c", NUMBERS], n=2, max_tokens=4)
    assert [choice.index for choice in answer.choices] == list(range(6))
    alone = [ask(client, prompt=prompt, max_tokens=4).choices[0].text for prompt in ("1, 2,", "a b c", NUMBERS)]
    assert [choice.text for choice in answer.choices] == [text for text in alone for _ in range(2)]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_one_prompt_too_long_is_named_before_any_work(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, prompt=["a", "b", "x " * 9000])
    assert (caught.value.param, caught.value.code) == ("prompt[2]", "context_length_exceeded")


def test_tokens_of_the_reported_text_are_whole(client: openai.OpenAI) -> None:
    assert "".join(tokens_of(client, "Hello, world!")) == "Hello, world!"
