from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from handler.engine.generation_config import GenerationDefaults
from handler.engine.sampling_params import SamplingParams
from handler.engine.status import ModelInfo
from handler.engine.tokenizer import Tokenizer
from handler.errors import ContextLengthError, InvalidRequestError, RequestError
from handler.params import ParamsFactory
from handler.schema.chat import ChatCompletionRequest
from handler.schema.messages import UserMessage
from handler.schema.sampling import StreamOptions
from handler.schema.text import CompletionRequest
from tests.tiny_models import byte_tokenizer

INFO = ModelInfo(
    name="m",
    architecture="Llama",
    device="cpu",
    dtype="float32",
    quantization="none",
    vocab_size=100,
    max_model_len=64,
    kv_cache_tokens=1024,
    kv_cache_dtype="float32",
)


@cache
def byte_encoder() -> Tokenizer:
    with TemporaryDirectory() as directory:
        byte_tokenizer().save(f"{directory}/tokenizer.json")
        return Tokenizer(Path(directory))


def factory(defaults: GenerationDefaults | None = None, **settings: Any) -> ParamsFactory:
    limits = {"default_max_tokens": None, "default_temperature": None} | settings
    return ParamsFactory(INFO, defaults or GenerationDefaults(), byte_encoder(), **limits)


def chat(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(model="m", messages=[UserMessage(content="hi")], **fields)


def build(
    request: ChatCompletionRequest | CompletionRequest, prompt_tokens: int = 4, **settings: Any
) -> SamplingParams:
    return factory(**settings).build(request, prompt_tokens)


def test_a_bare_request_fills_the_context_with_plain_sampling() -> None:
    assert build(chat()) == SamplingParams(max_tokens=60, temperature=1.0)


@pytest.mark.parametrize(
    "said", [{"min_tokens": 0}, {"ignore_eos": False}, {"skip_special_tokens": True}, {"stop": []}]
)
@pytest.mark.parametrize(
    "fields", [{}, {"temperature": 0.3, "top_p": 0.7, "seed": 5, "priority": -2, "logprobs": True}]
)
def test_a_default_that_is_said_changes_nothing(said: dict[str, Any], fields: dict[str, Any]) -> None:
    defaults = GenerationDefaults(temperature=0.6, top_p=0.8, top_k=-1, min_p=0.05, repetition_penalty=1.2)
    assert build(chat(**fields, **said), defaults=defaults) == build(chat(**fields), defaults=defaults)


ALONE: dict[str, dict[str, Any]] = {
    "max_tokens": {"max_tokens": 5},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.9},
    "top_k": {"top_k": 7},
    "min_p": {"min_p": 0.1},
    "seed": {"seed": -3},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": -1.5},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "logit_bias": {"logit_bias": {"5": 1.0}},
    "stop": {"stop": "end"},
    "stop_token_ids": {"stop_token_ids": [3]},
    "min_tokens": {"min_tokens": 2},
    "ignore_eos": {"ignore_eos": True},
    "logprobs": {"logprobs": True},
    "bad_words": {"bad_words": ["ab"]},
    "include_stop": {"include_stop_str_in_output": True},
    "skip_special_tokens": {"skip_special_tokens": False},
    "priority": {"priority": 2},
}
"""What asks a chat for each parameter; the others come from elsewhere."""


def test_every_parameter_can_be_asked_for_alone() -> None:
    assert {*ALONE, "prompt_logprobs", "shown_token_ids", "grammar"} == {*SamplingParams.__struct_fields__}
    bare = build(chat())
    for name, fields in ALONE.items():
        params = build(chat(**fields))
        different = [each for each in params.__struct_fields__ if getattr(params, each) != getattr(bare, each)]
        assert different == [name]


def test_every_field_arrives() -> None:
    params = build(
        chat(
            max_tokens=5,
            temperature=0.5,
            top_p=0.9,
            top_k=7,
            min_p=0.1,
            seed=-3,
            presence_penalty=1.5,
            frequency_penalty=-1.5,
            repetition_penalty=1.1,
            logit_bias={"5": -100.0, "99": 1.0},
            stop="end",
            stop_token_ids=[3],
            min_tokens=2,
            ignore_eos=True,
            logprobs=True,
            top_logprobs=4,
            bad_words=["ab"],
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            priority=-2,
        )
    )
    assert params == SamplingParams(
        max_tokens=5,
        temperature=0.5,
        top_p=0.9,
        top_k=7,
        min_p=0.1,
        seed=-3,
        presence_penalty=1.5,
        frequency_penalty=-1.5,
        repetition_penalty=1.1,
        logit_bias={5: -100.0, 99: 1.0},
        stop=("end",),
        stop_token_ids=(3,),
        min_tokens=2,
        ignore_eos=True,
        logprobs=4,
        bad_words=((97, 98), (32, 97, 98)),
        include_stop=True,
        skip_special_tokens=False,
        priority=-2,
    )


def test_a_bad_word_is_banned_at_the_beginning_and_behind_a_space() -> None:
    words = build(chat(bad_words=["a", " a", "  b"])).bad_words
    assert words == ((97,), (32, 97), (98,), (32, 98))


def test_completions_are_ranked_by_log_probabilities_that_nobody_sees() -> None:
    def logprobs(**fields: Any) -> int | None:
        return build(CompletionRequest(model="m", prompt="x", **fields)).logprobs

    assert logprobs(best_of=3) == 0
    assert logprobs(best_of=3, n=2) == 0
    assert logprobs(best_of=3, logprobs=5) == 5
    assert logprobs(best_of=3, n=3) is None
    assert logprobs(best_of=1) is None


def test_an_echo_scores_the_prompt_where_log_probabilities_are_asked_for() -> None:
    def prompt_logprobs(**fields: Any) -> int | None:
        return build(CompletionRequest(model="m", prompt="x", **fields)).prompt_logprobs

    assert prompt_logprobs(echo=True, logprobs=2) == 2
    assert prompt_logprobs(echo=True) is None
    assert prompt_logprobs(logprobs=2) is None


def test_the_request_wins_over_the_settings_and_those_over_the_model() -> None:
    model = GenerationDefaults(temperature=0.2, top_p=0.3, top_k=5, min_p=0.05, repetition_penalty=1.2)
    params = factory(model).build(chat(), 4)
    assert (params.temperature, params.top_p, params.top_k) == (0.2, 0.3, 5)
    assert (params.min_p, params.repetition_penalty) == (0.05, 1.2)
    assert factory(model, default_temperature=0.0).build(chat(), 4).temperature == 0.0
    assert factory(model, default_temperature=0.0).build(chat(temperature=1.5), 4).temperature == 1.5
    assert factory(model).build(chat(temperature=0.0, top_k=0), 4).top_k == 0


def test_minus_one_keeps_all_tokens() -> None:
    assert build(chat(top_k=-1)).top_k == 0


@pytest.mark.parametrize(
    ("asked", "prompt_tokens", "default", "expected"),
    [(None, 4, None, 60), (None, 4, 10, 10), (None, 60, 10, 4), (60, 4, 10, 60), (1, 63, None, 1)],
)
def test_max_tokens(asked: int | None, prompt_tokens: int, default: int | None, expected: int) -> None:
    assert build(chat(max_tokens=asked), prompt_tokens, default_max_tokens=default).max_tokens == expected


def test_both_names_of_max_tokens() -> None:
    assert build(chat(max_completion_tokens=3)).max_tokens == 3
    assert build(chat(max_completion_tokens=3, max_tokens=3)).max_tokens == 3


def test_logprobs_in_both_dialects() -> None:
    assert build(chat()).logprobs is None
    assert build(chat(logprobs=True)).logprobs == 0
    assert build(CompletionRequest(model="m", prompt="x", logprobs=2)).logprobs == 2
    assert build(CompletionRequest(model="m", prompt="x")).logprobs is None


@pytest.mark.parametrize(
    ("request_", "kind", "param"),
    [
        (chat(max_tokens=61), ContextLengthError, "max_tokens"),
        (chat(max_completion_tokens=61), ContextLengthError, "max_completion_tokens"),
        (chat(max_completion_tokens=3, max_tokens=4), InvalidRequestError, "max_completion_tokens"),
        (chat(max_tokens=4, min_tokens=5), InvalidRequestError, "min_tokens"),
        (chat(top_logprobs=3), InvalidRequestError, "top_logprobs"),
        (chat(logit_bias={"100": 1.0}), InvalidRequestError, "logit_bias"),
        (chat(logit_bias={"1": 1.0, "01": -1.0}), InvalidRequestError, "logit_bias"),
        (chat(logit_bias={"the": 1.0}), InvalidRequestError, "logit_bias"),
        (chat(logit_bias={"9" * 5000: 1.0}), InvalidRequestError, "logit_bias"),
        (chat(stop_token_ids=[1, 100]), InvalidRequestError, "stop_token_ids"),
        (chat(bad_words=["a", "z"]), InvalidRequestError, "bad_words[1]"),
        (chat(bad_words=[" "]), InvalidRequestError, "bad_words[0]"),
        (chat(stream_options=StreamOptions(include_usage=True)), InvalidRequestError, "stream_options"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    request_: ChatCompletionRequest, kind: type[RequestError], param: str
) -> None:
    with pytest.raises(kind) as caught:
        build(request_)
    assert caught.value.param == param
    assert param in str(caught.value)


def test_a_prompt_must_leave_room_for_one_token() -> None:
    assert factory().check_prompt([1] * 63, "prompt") == [1] * 63
    with pytest.raises(ContextLengthError) as caught:
        factory().check_prompt([1] * 64, "prompt")
    assert caught.value.param == "prompt"
    assert "64" in str(caught.value)


def test_a_prompt_may_fill_the_context_where_nothing_is_to_follow() -> None:
    assert factory().check_prompt([1] * 64, "prompt", min_new_tokens=0) == [1] * 64
    assert build(CompletionRequest(model="m", prompt="x", max_tokens=0), 64).max_tokens == 0
    with pytest.raises(ContextLengthError, match=r"prompt\[3\]: the prompt has 65 tokens") as caught:
        factory().check_prompt([1] * 65, "prompt[3]", min_new_tokens=0)
    assert caught.value.param == "prompt[3]"


@pytest.mark.parametrize("tokens", [[], [1, 100]])
def test_a_prompt_has_tokens_that_the_model_knows(tokens: list[int]) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        factory().check_prompt(tokens, "prompt[2]")
    assert caught.value.param == "prompt[2]"
