from __future__ import annotations

import asyncio

import orjson
import pytest

from bench.errors import BenchError
from bench.load.target import ChatRequests, Target, first_model, parse_target
from bench.workload import Question
from tests.bench.load.known_server import serving, streaming

LOCAL = Target(host="127.0.0.1", port=8000, is_tls=False, base_path="")


@pytest.mark.parametrize(("url", "target"), [
    ("http://127.0.0.1:8000", LOCAL),
    ("http://127.0.0.1:8000/", LOCAL),
    ("http://127.0.0.1:8000/v1", LOCAL),
    ("http://127.0.0.1:8000/v1/", LOCAL),
    ("https://api.example.com", Target(host="api.example.com", port=443, is_tls=True, base_path="")),
    ("http://[::1]:81/llm/v1", Target(host="::1", port=81, is_tls=False, base_path="/llm")),
])  # fmt: skip
def test_urls(url: str, target: Target) -> None:
    assert parse_target(url) == target


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:99999", "http://x?key=1",
                                 "http://me:secret@x"])  # fmt: skip
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(BenchError, match=r"^url: ") as refused:
        parse_target(url)
    assert "secret" not in str(refused.value)


def test_a_request() -> None:
    target = Target(host="::1", port=81, is_tls=False, base_path="/llm")
    requests = ChatRequests(
        target, model="m", api_key="sk-1", stream=True, extra={"ignore_eos": True, "temperature": 1}
    )
    head, _, body = requests.request(Question(prompt="Hi", max_tokens=5)).partition(b"\r\n\r\n")
    first, *fields = head.decode().split("\r\n")
    assert first == "POST /llm/v1/chat/completions HTTP/1.1"
    assert "host: [::1]:81" in fields
    assert "authorization: Bearer sk-1" in fields
    assert f"content-length: {len(body)}" in fields
    assert orjson.loads(body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
        "temperature": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def test_whole_answers_are_asked_for_without_stream_options() -> None:
    data = ChatRequests(LOCAL, model="m", api_key=None, stream=False, extra={}).request(
        Question(prompt="", max_tokens=1)
    )
    assert b"authorization" not in data
    assert "stream_options" not in orjson.loads(data.partition(b"\r\n\r\n")[2])


def test_a_key_that_would_end_the_header_is_refused() -> None:
    with pytest.raises(BenchError, match="api_key"):
        ChatRequests(LOCAL, model="m", api_key="x\r\nevil: 1", stream=False, extra={})


async def test_the_first_model_that_a_server_lists() -> None:
    async with serving(streaming(0.0, 0.0)) as server:
        target = parse_target(f"http://127.0.0.1:{server.port}")
        assert await asyncio.to_thread(first_model, target, "sk-2") == "known"
    assert server.keys == {"Bearer sk-2"}
    with pytest.raises(BenchError, match=r"model: .* but .*refused"):
        await asyncio.to_thread(first_model, target, None)
