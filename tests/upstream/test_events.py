from __future__ import annotations

import itertools

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handler.upstream.events import Completion, EventSplitter, data_of, is_end, read_part, with_usage

STREAM = b'data: {"a":1}\n\n: alive\n\nevent: x\ndata: {"b":\ndata: 2}\n\ndata: [DONE]\n\n'


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_whole_however_they_come(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    splitter = EventSplitter()
    events = [event for begin, end in itertools.pairwise(bounds) for event in splitter.push(STREAM[begin:end])]
    assert b"".join(events) == STREAM
    assert [data_of(event) for event in events] == [b'{"a":1}', b"", b'{"b":\n2}', b"[DONE]"]
    assert is_end(data_of(events[-1]))


def test_other_line_ends_are_line_ends() -> None:
    assert EventSplitter().push(b"data: 1\r\n\r\ndata: 2") == [b"data: 1\n\n"]


@pytest.mark.parametrize(
    ("body", "has_text", "finish_reason", "tokens"),
    [
        (b'{"choices":[{"delta":{"role":"assistant","content":""}}]}', False, None, None),
        (b'{"choices":[{"delta":{"content":"a"}}]}', True, None, None),
        (b'{"choices":[{"delta":{"reasoning_content":"a"}}]}', True, None, None),
        (b'{"choices":[{"text":"a","finish_reason":"stop"}]}', True, "stop", None),
        (b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}', False, None, (3, 4, None)),
        (
            b'{"choices":[{"message":{}}],"usage":{"prompt_tokens":3,"completion_tokens":4,'
            b'"prompt_tokens_details":{"cached_tokens":2}}}',
            False,
            None,
            (3, 4, 2),
        ),
        (b'{"type":"response.output_text.delta","delta":"a"}', True, None, None),
        (
            b'{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":6}}}',
            False,
            None,
            (5, 6, None),
        ),
    ],
)
def test_what_an_event_says(
    body: bytes, has_text: bool, finish_reason: str | None, tokens: tuple[int, int, int | None] | None
) -> None:
    part = read_part(body)
    assert part is not None
    assert (part.has_text, part.finish_reason) == (has_text, finish_reason)
    usage = part.tokens
    assert (None if usage is None else (usage.of_prompt, usage.of_completion, usage.of_cache)) == tokens
    assert part.is_last == (b"response.completed" in body)


def test_what_is_something_else_says_nothing() -> None:
    assert read_part(b"[1]") is None
    assert read_part(b"not json") is None


def test_usage_is_asked_for_beside_what_was_asked_for() -> None:
    body = {"model": "m", "stream": True, "stream_options": {"include_obfuscation": False}}
    assert orjson.loads(with_usage(body))["stream_options"] == {"include_obfuscation": False, "include_usage": True}
    assert "stream_options" in body
    assert orjson.loads(with_usage({"stream": True}))["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("bodies", "text"),
    [
        ([b'{"choices":[{"delta":{"role":"assistant"}}]}', b'{"choices":[{"delta":{"content":"a"}}]}'], "a"),
        ([b'{"choices":[{"index":1,"text":"b"}]}', b'{"choices":[{"index":0,"text":"a"}]}'], '["a","b"]'),
        ([b'{"choices":[{"message":{"content":"a"}},{"index":1,"message":{"content":"b"}}]}'], '["a","b"]'),
        ([b'{"choices":[{"message":{"content":null,"tool_calls":[]}}]}'], ""),
        ([b'{"choices":[{"message":{"content":[{"type":"text"}]}}]}'], ""),
        ([b'{"type":"response.output_text.delta","delta":"a"}', b'{"type":"response.completed"}'], "a"),
        (
            [
                b'{"output":[{"type":"reasoning","content":[{"text":"thought"}]},'
                b'{"type":"message","content":[{"type":"output_text","text":"a"},{"type":"refusal"}]}]}'
            ],
            "a",
        ),
        ([b'{"output":"what is this"}'], None),
        ([b'{"data":[{"embedding":[0.5]}]}'], None),
    ],
)
def test_what_was_generated_in_all(bodies: list[bytes], text: str | None) -> None:
    completion = Completion()
    for body in bodies:
        part = read_part(body)
        assert part is not None
        completion.add(part)
    assert completion.text() == text
