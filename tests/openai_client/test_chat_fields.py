"""Fields of a chat that other endpoints have not, or have otherwise, but for tools and formats: the official client."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

from tests.openai_client.conftest import MODEL

PARIS: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the capital of France?"}]
COUNT: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Count: 1, 2, 3"}]


def ask(client: openai.OpenAI, **fields: Any) -> ChatCompletion:
    asking: dict[str, Any] = {"model": MODEL, "messages": PARIS, "temperature": 0, "max_tokens": 12} | fields
    answer: ChatCompletion = client.chat.completions.create(**asking)
    return answer


def text(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


@pytest.fixture(scope="module")
def plain(client: openai.OpenAI) -> str:
    """What the model says if asked for nothing else."""
    found = text(ask(client))
    assert "capital of France is Paris" in found
    return found


def test_a_fingerprint_stands_in_every_part_of_every_answer(client: openai.OpenAI) -> None:
    fingerprint = ask(client, seed=1, max_tokens=1).system_fingerprint
    assert fingerprint is not None
    chunks: Any = client.chat.completions.create(model=MODEL, messages=PARIS, max_tokens=2, stream=True)
    assert {chunk.system_fingerprint for chunk in chunks} == {fingerprint}
    assert client.completions.create(model=MODEL, prompt="a", max_tokens=1).system_fingerprint == fingerprint
    texts = client.completions.create(model=MODEL, prompt="a", max_tokens=1, stream=True)
    assert {chunk.system_fingerprint for chunk in texts} == {fingerprint}


def test_usage_has_its_details(client: openai.OpenAI) -> None:
    usage = ask(client, max_tokens=3).usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.to_dict() == {
        "reasoning_tokens": 0,
        "audio_tokens": 0,
        "accepted_prediction_tokens": 0,
        "rejected_prediction_tokens": 0,
    }
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.audio_tokens, usage.prompt_tokens_details.cached_tokens is None) == (0, False)


@pytest.mark.parametrize("tier", ["auto", "default"])
def test_the_tier_that_served_is_told_where_one_is_named(client: openai.OpenAI, tier: Any) -> None:
    assert ask(client, max_tokens=1).service_tier is None
    assert ask(client, max_tokens=1, service_tier=tier).service_tier == "default"
    chunks: Any = client.chat.completions.create(
        model=MODEL, messages=PARIS, max_tokens=1, stream=True, service_tier=tier
    )
    assert {chunk.service_tier for chunk in chunks} == {"default"}


def test_what_names_the_asker_or_asks_for_the_usual_changes_nothing(client: openai.OpenAI, plain: str) -> None:
    answer = ask(
        client,
        user="u-1",
        safety_identifier="hash",
        prompt_cache_key="key",
        prompt_cache_retention="in_memory",
        metadata={"a": "b"},
        modalities=["text"],
        store=False,
        audio=None,
        moderation=None,
        prediction=None,
        reasoning_effort=None,
        verbosity=None,
        logit_bias=None,
        n=None,
        seed=None,
        stop=None,
        top_p=None,
        frequency_penalty=None,
        presence_penalty=None,
        logprobs=None,
        top_logprobs=None,
    )
    assert text(answer) == plain


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"service_tier": "flex"}, "service_tier"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"store": True}, "store"),
        ({"modalities": ["text", "audio"]}, "modalities[1]"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"verbosity": "high"}, "verbosity"),
        ({"web_search_options": {"search_context_size": "low"}}, "web_search_options"),
        ({"moderation": {"model": "omni-moderation-latest"}}, "moderation"),
        ({"prompt_cache_retention": "24h"}, "prompt_cache_retention"),
        ({"prompt_cache_options": {"mode": "explicit"}}, "prompt_cache_options"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"extra_body": {"allowed_token_ids": [1]}}, "allowed_token_ids"),
        ({"extra_body": {"return_token_ids": True}}, "return_token_ids"),
        ({"extra_body": {"prompt_logprobs": 1}}, "prompt_logprobs"),
        ({"extra_body": {"echo": True}}, "echo"),
    ],
)
def test_what_has_no_use_here_is_refused_with_the_reason(
    client: openai.OpenAI, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    assert caught.value.param == param
    assert isinstance(caught.value.body, dict)
    message = caught.value.body["message"]
    assert message.startswith(f"{param}: ")
    assert message.endswith(".")  # a sentence of ours, behind the decoder's


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_may_end_with_what_stopped_it(client: openai.OpenAI, stream: bool) -> None:
    asking: dict[str, Any] = {"model": MODEL, "messages": PARIS, "temperature": 0, "stop": ["France"]}
    for extra, expected in (({}, "The capital of "), ({"include_stop_str_in_output": True}, "The capital of France")):
        answer: Any = client.chat.completions.create(**asking, stream=stream, extra_body=extra)
        parts = [chunk.choices[0].delta.content or "" for chunk in answer] if stream else [text(answer)]
        assert "".join(parts) == expected
