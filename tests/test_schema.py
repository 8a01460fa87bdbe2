from __future__ import annotations

from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParams
from openai.types.completion_create_params import CompletionCreateParams as TextCreateParams

from handler.errors import InvalidRequestError
from handler.schema.chat import ChatCompletionRequest
from handler.schema.codec import decode_request
from handler.schema.text import CompletionRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "m", "prompt": "hi"}
chat_decoder = msgspec.json.Decoder(ChatCompletionRequest)
text_decoder = msgspec.json.Decoder(CompletionRequest)


def message(**fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "hi"} | fields]}


BAD_FIELDS = [
    ({"model": 1}, "model"),
    ({"model": "x" * 513}, "model"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 1.1}, "min_p"),
    ({"seed": 2**63}, "seed"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"5": 101}}, "logit_bias"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"stop": ""}, "stop"),
    ({"stop": [""]}, "stop[0]"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"stop": 5}, "stop"),
    ({"stop_token_ids": [1, -1]}, "stop_token_ids[1]"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"ignore_eos": "yes"}, "ignore_eos"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"stream": "true"}, "stream"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"stream_options": {"include": True}}, "stream_options.include"),
    ({"user": 5}, "user"),
    ({"metadata": {"a": 5}}, "metadata"),
    ({"metadata": {"a": "x" * 513}}, "metadata"),
    ({"metadata": {"x" * 65: "a"}}, "metadata"),
    ({"metadata": {str(number): "a" for number in range(17)}}, "metadata"),
    ({"temprature": 1}, "temprature"),
    ({"bad_words": "x"}, "bad_words"),
    ({"bad_words": ["x", ""]}, "bad_words[1]"),
    ({"bad_words": ["x"] * 257}, "bad_words"),
    ({"include_stop_str_in_output": 1}, "include_stop_str_in_output"),
    ({"skip_special_tokens": "no"}, "skip_special_tokens"),
    ({"priority": 1.5}, "priority"),
    ({"priority": 2**31}, "priority"),
    ({"use_beam_search": 1}, "use_beam_search"),
]

BAD_CHAT = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [5]}, "messages[0]"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role"),
    (message(role="wizard"), "messages[0].role"),
    (message(role="tool"), "messages[0].tool_call_id"),
    (message(role=5), "messages[0].role"),
    (message(content=None), "messages[0].content"),
    (message(content=[{"type": "image_url"}]), "messages[0].content[0].type"),
    (message(content=[{"text": "a"}]), "messages[0].content[0].type"),
    (message(content=[{"type": "text", "text": 5}]), "messages[0].content[0].text"),
    (message(tool_calls=[]), "messages[0].tool_calls"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"store": "no"}, "store"),
    ({"service_tier": 1}, "service_tier"),
    ({"modalities": "text"}, "modalities"),
    ({"prompt_cache_key": 1}, "prompt_cache_key"),
    ({"safety_identifier": "x" * 129}, "safety_identifier"),
    ({"best_of": 2}, "best_of"),
    ({"suffix": "x"}, "suffix"),
    ({"logprobs": 1}, "logprobs"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"prompt": "hi"}, "prompt"),
]

BAD_TEXT = [
    ({"prompt": []}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": {"text": "hi"}}, "prompt"),
    ({"prompt": [1, -1]}, "prompt[1]"),
    ({"prompt": [[1, "x"]]}, "prompt[0][1]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"messages": []}, "messages"),
    ({"echo": 1}, "echo"),
    ({"best_of": 0}, "best_of"),
    ({"best_of": 129}, "best_of"),
    ({"add_special_tokens": 0}, "add_special_tokens"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"max_completion_tokens": 2}, "max_completion_tokens"),
]

ANY = {"anything": [1]}

NO_USE = [
    ({"use_beam_search": True}, "use_beam_search", "one after the other"),
    ({"return_token_ids": True}, "return_token_ids", "as text"),
    ({"return_tokens_as_token_ids": True}, "return_tokens_as_token_ids", "as text"),
    ({"length_penalty": 1.0}, "length_penalty", "no beam search"),
    ({"early_stopping": False}, "early_stopping", "no beam search"),
    ({"truncate_prompt_tokens": 5}, "truncate_prompt_tokens", "never cut"),
    ({"allowed_token_ids": [5]}, "allowed_token_ids", "logit_bias"),
    ({"prompt_logprobs": 0}, "prompt_logprobs", "echo and logprobs"),
    ({"cache_salt": "x"}, "cache_salt", "one prefix cache"),
    ({"kv_transfer_params": ANY}, "kv_transfer_params", "on its device"),
    ({"logits_processors": ["x"]}, "logits_processors", "no code"),
    ({"vllm_xargs": ANY}, "vllm_xargs", "no code"),
    ({"request_id": "x"}, "request_id", "x-request-id"),
    ({"spaces_between_special_tokens": True}, "spaces_between_special_tokens", "decoder"),
]

NO_USE_IN_CHAT = [
    ({"store": True}, "store", "Nothing is stored"),
    ({"service_tier": "flex"}, "service_tier", "one tier"),
    ({"service_tier": "priority"}, "service_tier", "one tier"),
    ({"modalities": ["text", "audio"]}, "modalities[1]", "Only text"),
    ({"audio": {"voice": "alloy", "format": "wav"}}, "audio", "Only text"),
    ({"echo": True}, "echo", "/v1/completions"),
    ({"reasoning_effort": "low"}, "reasoning_effort", "no such control"),
    ({"verbosity": "low"}, "verbosity", "no such control"),
    ({"thinking_token_budget": 5}, "thinking_token_budget", "no such control"),
    ({"prediction": {"type": "content", "content": "x"}}, "prediction", "guessed"),
    ({"moderation": {"model": "x"}}, "moderation", "Nothing is moderated"),
    ({"web_search_options": {}}, "web_search_options", "no built-in tools"),
    ({"prompt_cache_options": {}}, "prompt_cache_options", "no stated time"),
    ({"prompt_cache_retention": "24h"}, "prompt_cache_retention", "as memory allows"),
    ({"media_io_kwargs": {}}, "media_io_kwargs", "text only"),
    ({"mm_processor_kwargs": {}}, "mm_processor_kwargs", "text only"),
]

NO_USE_IN_TEXT = [
    ({"suffix": "x"}, "suffix", "fills no gaps"),
    ({"prompt_embeds": "x"}, "prompt_embeds", "texts or tokens"),
]


def param_of(decoder: Any, body: bytes) -> str | None:
    with pytest.raises(InvalidRequestError) as caught:
        decode_request(decoder, body)
    if caught.value.param is not None:
        assert caught.value.param in str(caught.value)
    return caught.value.param


@pytest.mark.parametrize(("fields", "param"), [*BAD_FIELDS, *BAD_CHAT])
def test_a_bad_chat_request_names_its_field(fields: dict[str, Any], param: str) -> None:
    assert param_of(chat_decoder, msgspec.json.encode(CHAT | fields)) == param


@pytest.mark.parametrize(("fields", "param"), [*BAD_FIELDS, *BAD_TEXT])
def test_a_bad_text_request_names_its_field(fields: dict[str, Any], param: str) -> None:
    assert param_of(text_decoder, msgspec.json.encode(TEXT | fields)) == param


def check_reason(decoder: Any, base: dict[str, Any], fields: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(InvalidRequestError, match=reason) as caught:
        decode_request(decoder, msgspec.json.encode(base | fields))
    assert caught.value.param == param
    assert str(caught.value).startswith(f"{param}: ")


@pytest.mark.parametrize(("fields", "param", "reason"), [*NO_USE, *NO_USE_IN_CHAT])
def test_a_field_without_use_in_a_chat_is_refused_with_the_reason(
    fields: dict[str, Any], param: str, reason: str
) -> None:
    check_reason(chat_decoder, CHAT, fields, param, reason)


@pytest.mark.parametrize(("fields", "param", "reason"), [*NO_USE, *NO_USE_IN_TEXT])
def test_a_field_without_use_in_a_text_is_refused_with_the_reason(
    fields: dict[str, Any], param: str, reason: str
) -> None:
    check_reason(text_decoder, TEXT, fields, param, reason)


def test_what_asks_for_nothing_more_is_accepted() -> None:
    flags = ["use_beam_search", "return_token_ids", "return_tokens_as_token_ids"]
    decode_request(text_decoder, msgspec.json.encode(TEXT | dict.fromkeys(flags, False)))
    defaults = {
        "service_tier": "default",
        "modalities": ["text"],
        "prompt_cache_retention": "in_memory",
        "prompt_cache_key": "a",
        "safety_identifier": "b",
    }
    flags += ["store", "echo"]
    decode_request(chat_decoder, msgspec.json.encode(CHAT | dict.fromkeys(flags, False) | defaults))


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {key: value for key, value in CHAT.items() if key != field}
    assert param_of(chat_decoder, msgspec.json.encode(body)) == field


def test_json_that_is_no_object_names_no_field() -> None:
    assert param_of(chat_decoder, b"[]") is None
    assert param_of(chat_decoder, b"null") is None


def test_an_error_does_not_repeat_megabytes_of_a_request() -> None:
    body = msgspec.json.encode(CHAT | {"x" * 1_000_000: 1})
    with pytest.raises(InvalidRequestError) as caught:
        decode_request(chat_decoder, body)
    assert len(str(caught.value)) < 3000
    assert len(caught.value.param or "") < 2000


def test_null_counts_as_absent_where_openai_says_so() -> None:
    decoders: list[tuple[Any, dict[str, Any], Any]] = [
        (chat_decoder, CHAT, CompletionCreateParams),
        (text_decoder, TEXT, TextCreateParams),
    ]
    for decoder, base, params in decoders:
        hints = [get_type_hints(kind) for kind in get_args(params)]
        nullable = {name for hint in hints for name, kind in hint.items() if type(None) in get_args(kind)}
        assert len(nullable - base.keys()) > 10
        for name in nullable - base.keys():
            request = decode_request(decoder, msgspec.json.encode(base | {name: None}))
            assert request == decode_request(decoder, msgspec.json.encode(base))


def test_null_counts_as_absent_in_every_field_of_ours() -> None:
    decoders: list[tuple[Any, dict[str, Any], Any]] = [
        (chat_decoder, CHAT, ChatCompletionRequest),
        (text_decoder, TEXT, CompletionRequest),
    ]
    for decoder, base, kind in decoders:
        names = set(kind.__struct_fields__) - base.keys()
        request = decode_request(decoder, msgspec.json.encode(base | dict.fromkeys(names)))
        assert request == decode_request(decoder, msgspec.json.encode(base))


OTHERS = {"function_call", "functions", "parallel_tool_calls", "response_format", "tool_choice", "tools"}
"""Fields of tools and of structured output, which have tests of their own."""


def test_every_field_of_the_reference_is_known() -> None:
    pairs: list[tuple[Any, Any]] = [
        (CompletionCreateParams, ChatCompletionRequest),
        (TextCreateParams, CompletionRequest),
    ]
    for params, kind in pairs:
        known = {name for one in get_args(params) for name in get_type_hints(one)}
        assert known - OTHERS - set(kind.__struct_fields__) == set()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=8,
)
field_names = st.sampled_from(sorted({*ChatCompletionRequest.__struct_fields__, *CompletionRequest.__struct_fields__}))


@given(fields=st.dictionaries(field_names | st.text(max_size=10), json_values, max_size=5), with_base=st.booleans())
def test_any_json_is_a_valid_request_or_refused(fields: dict[str, Any], with_base: bool) -> None:
    decoders: list[tuple[Any, dict[str, Any]]] = [(chat_decoder, CHAT), (text_decoder, TEXT)]
    for decoder, base in decoders:
        body = msgspec.json.encode((base if with_base else {}) | fields)
        try:
            request = decode_request(decoder, body)
        except InvalidRequestError:
            continue
        assert msgspec.json.decode(msgspec.json.encode(request), type=type(request)) == request


@given(body=st.binary(max_size=60))
def test_any_bytes_are_refused_politely(body: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        decode_request(chat_decoder, body)
