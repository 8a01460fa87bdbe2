from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ({"max_tokens": 0}, "max_tokens"),
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
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
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
    ({"echo": True}, "echo"),
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


@pytest.mark.parametrize("field", ["model", "messages"])
def test_a_missing_field_is_named(field: str) -> None:
    body = {key: value for key, value in CHAT.items() if key != field}
    assert param_of(chat_decoder, msgspec.json.encode(body)) == field


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"model": "m",}',
        b"\xff",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"NaN",
        msgspec.json.encode(CHAT) + b" {}",
    ],
)
def test_what_is_no_json_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(InvalidRequestError, match="not valid JSON") as caught:
        decode_request(chat_decoder, body)
    assert caught.value.param is None


def test_json_that_is_no_object_names_no_field() -> None:
    assert param_of(chat_decoder, b"[]") is None
    assert param_of(chat_decoder, b"null") is None


def test_deep_nesting_is_refused() -> None:
    body = b'{"model": "m", "messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(InvalidRequestError):
        decode_request(chat_decoder, body)


def test_an_error_does_not_repeat_megabytes_of_a_request() -> None:
    body = msgspec.json.encode(CHAT | {"x" * 1_000_000: 1})
    with pytest.raises(InvalidRequestError) as caught:
        decode_request(chat_decoder, body)
    assert len(str(caught.value)) < 3000
    assert len(caught.value.param or "") < 2000


def test_null_counts_as_absent_where_openai_says_so() -> None:
    names = [
        "max_tokens",
        "temperature",
        "top_p",
        "n",
        "stop",
        "stream",
        "seed",
        "logit_bias",
        "stream_options",
        "user",
    ]
    request = decode_request(chat_decoder, msgspec.json.encode(CHAT | dict.fromkeys(names)))
    assert request == decode_request(chat_decoder, msgspec.json.encode(CHAT))


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
