from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.load.answers import Answer

FINISH = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}


def said(text: str, **others: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]} | others


def counted(num_tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": num_tokens}}


def stream(*events: dict[str, Any], end: bytes = b"data: [DONE]\n\n") -> bytes:
    return b"".join(b"data: " + orjson.dumps(event) + b"\n\n" for event in events) + end


def read(body: bytes, *, is_stream: bool = True) -> Answer:
    answer = Answer(is_stream=is_stream)
    answer.feed(1.0, body)
    return answer


def miss(body: bytes, *, max_tokens: int = 2, exact: bool = True, is_stream: bool = True) -> str | None:
    verdict = read(body, is_stream=is_stream).judge(max_tokens=max_tokens, exact=exact, words=None)
    return None if verdict is None else f"{verdict.failure}: {verdict.error}"


@given(st.lists(st.text(min_size=1), min_size=1, max_size=8), st.data(), st.booleans())
def test_events_come_out_whole_however_the_stream_is_cut(texts: list[str], data: st.DataObject, crlf: bool) -> None:
    body = stream(*map(said, texts), FINISH, counted(len(texts)))
    body = body.replace(b"\n\n", b"\r\n\r\n") if crlf else body
    cuts = sorted(data.draw(st.sets(st.integers(1, len(body) - 1), max_size=10)))
    borders = [0, *cuts, len(body)]
    answer = Answer(is_stream=True)
    for begin, end in itertools.pairwise(borders):
        answer.feed(float(end), body[begin:end])
    assert answer.judge(max_tokens=len(texts), exact=True, words=None) is None
    assert answer.text == "".join(texts)
    assert len(answer.token_times_s) == len(texts)
    assert answer.token_times_s == sorted(answer.token_times_s)
    assert set(answer.token_times_s) <= {float(border) for border in borders}


def test_what_the_server_counted_is_kept() -> None:
    answer = read(stream(said("a"), FINISH, counted(1)))
    assert (answer.prompt_tokens, answer.completion_tokens) == (3, 1)


def test_comments_other_fields_and_empty_text_are_no_tokens() -> None:
    body = b": keep-alive\n\nevent: x\n" + stream(said(""), said("a"), FINISH, counted(2))
    answer = read(body)
    assert answer.token_times_s == [1.0]
    assert answer.judge(max_tokens=2, exact=True, words=None) is None


def test_reasoning_is_text_as_well() -> None:
    thought = {"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]}
    assert len(read(stream(thought, said("a"), FINISH)).token_times_s) == 2


@pytest.mark.parametrize(("body", "expected"), [
    (stream(said("a"), said("b"), FINISH, counted(2)), None),
    (stream(said("ab"), FINISH, counted(2)), None),
    (stream(said("a"), said("a"), FINISH, counted(2)), None),
    (stream(said("a"), said("b"), said("b"), FINISH, counted(2)),
     "wrong: 3 events with text came for 2 tokens: some are doubled"),
    (stream(said("a"), FINISH, counted(1)), "wrong: 1 tokens were generated, 2 were asked for"),
    (stream(said("a"), FINISH, counted(3)), "wrong: 3 tokens were generated, 2 were allowed"),
    (stream(said("a"), FINISH), "wrong: the server did not say how many tokens it generated"),
    (stream(said("a"), FINISH, said("b"), counted(2)), "wrong: text came after the finish reason"),
    (stream(said("a"), said("b"), FINISH, FINISH, counted(2)), "wrong: 2 finish reasons came"),
    (stream(said("a", id="1"), said("b", id="2"), FINISH, counted(2)), "wrong: chunks of 2 answers came in one"),
    (stream(said("a"), FINISH, counted(2), end=b""), "broken: the stream ended without [DONE]"),
    (stream(said("a"), counted(2)), "broken: it has no finish reason"),
    (stream(said("a"), {"error": {"message": "gone"}}), 'broken: it broke off: {"message":"gone"}'),
])  # fmt: skip
def test_what_is_wrong_with_a_stream(body: bytes, expected: str | None) -> None:
    assert miss(body) == expected


def test_fewer_tokens_are_right_where_the_model_may_end() -> None:
    body = stream(said("a"), FINISH, counted(1))
    assert miss(body, max_tokens=5, exact=False) is None
    assert miss(stream(said("a"), FINISH), max_tokens=5, exact=False) is None


def test_a_whole_answer() -> None:
    choice = {"index": 0, "message": {"content": "ab"}, "finish_reason": "length"}
    right = {"id": "1", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    assert miss(orjson.dumps(right), is_stream=False) is None
    assert (
        miss(orjson.dumps(right), is_stream=False, max_tokens=3) == "wrong: 2 tokens were generated, 3 were asked for"
    )
    assert (miss(orjson.dumps(right)[:-4], is_stream=False) or "").startswith("broken: what came is no chunk")
    answer = read(orjson.dumps(right), is_stream=False)
    verdict = answer.judge(max_tokens=2, exact=True, words=("a", "c"))
    assert verdict is not None
    assert verdict.error == "token 2 of 2 is to be 'c', but 'b' came"
    assert answer.token_times_s == []
