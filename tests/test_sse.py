from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.engine.events import FinishReason
from handler.schema.chat import ChatCompletionChunk, ChatDelta, ChatLogprobs, ContentLogprob, TopLogprob
from handler.schema.errors import ErrorBody, ErrorDetail
from handler.schema.text import Completion, CompletionLogprobs
from handler.schema.usage import PromptTokensDetails, Usage
from handler.sse import DONE, ChunkFrames, error_event

HEAD: dict[str, str | int] = {"id": "x-1", "created": 5, "model": 'a "model"', "system_fingerprint": "fp_1"}
USAGE = Usage(3, 4, 7, PromptTokensDetails(2))
texts = st.text() | st.sampled_from(["\n\n", "\r\n", '"\\', "\u2028\u2029", "👩‍👩‍👧", "data: [DONE]", "\x00\x7f\x85"])


def chat_frames(*, with_usage: bool = False) -> ChunkFrames:
    head = HEAD | {"object": "chat.completion.chunk"}
    return ChunkFrames(head, content_key=b'"delta":{"content":', content_end=b"}", with_usage=with_usage)


def text_frames(*, with_usage: bool = False) -> ChunkFrames:
    head = HEAD | {"object": "text_completion"}
    return ChunkFrames(head, content_key=b'"text":', content_end=b"", with_usage=with_usage)


def payload(frame: bytes) -> bytes:
    """The data of exactly one event, read as the HTML standard says: CR, LF and CRLF end a line."""
    lines = frame.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    assert lines[1:] == [b"", b""]
    assert lines[0].startswith(b"data: ")
    return lines[0].removeprefix(b"data: ")


@given(text=texts, index=st.integers(0, 200), with_usage=st.booleans())
def test_any_text_is_one_event_of_the_declared_type(text: str, index: int, with_usage: bool) -> None:
    chat = payload(chat_frames(with_usage=with_usage).text(index, text, None))
    chunk = msgspec.json.decode(chat, type=ChatCompletionChunk)
    assert chunk.choices[0].delta == ChatDelta(content=text)
    assert chunk.choices[0].index == index
    assert chunk.choices[0].finish_reason is None
    assert (chunk.id, chunk.created, chunk.model) == ("x-1", 5, 'a "model"')
    assert ("usage" in msgspec.json.decode(chat)) == with_usage
    completion = msgspec.json.decode(payload(text_frames().text(index, text, None)), type=Completion)
    assert completion.choices[0].text == text


@given(text=texts)
def test_log_probabilities_travel_with_their_text(text: str) -> None:
    top = TopLogprob(text, -0.5, list(text.encode()))
    logprobs = ChatLogprobs([ContentLogprob(text, -0.5, list(text.encode()), [top])])
    chunk = msgspec.json.decode(payload(chat_frames().text(0, text, logprobs)), type=ChatCompletionChunk)
    assert chunk.choices[0].logprobs == logprobs
    plain = CompletionLogprobs([text], [-0.5], [{text: -0.5}], [0])
    completion = msgspec.json.decode(payload(text_frames().text(0, text, plain)), type=Completion)
    assert completion.choices[0].logprobs == plain


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
@given(stop=st.none() | st.integers(0, 10) | texts)
def test_the_finish_reason_is_true_and_says_what_stopped(reason: FinishReason, stop: str | int | None) -> None:
    frame = chat_frames().choice(2, b'"delta":{}', finish_reason=reason, stop_reason=stop)
    (choice,) = msgspec.json.decode(payload(frame), type=ChatCompletionChunk).choices
    assert (choice.index, choice.delta, choice.finish_reason, choice.stop_reason) == (2, ChatDelta(), reason, stop)


def test_usage_comes_without_choices() -> None:
    chunk = msgspec.json.decode(payload(chat_frames(with_usage=True).usage(USAGE)), type=ChatCompletionChunk)
    assert chunk.choices == []
    assert chunk.usage == USAGE


def test_an_error_is_an_event_with_openais_body() -> None:
    body = ErrorBody(ErrorDetail("line\nbreak", "server_error"))
    assert msgspec.json.decode(payload(error_event(body)), type=ErrorBody) == body


def test_the_end_is_openais() -> None:
    assert payload(DONE) == b"[DONE]"
