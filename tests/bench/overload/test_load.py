from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.client import Attempt, Endpoint, StreamSample, attempt_chat
from bench.errors import BenchError
from bench.overload.load import LoadSample
from bench.overload.rss import MemoryWatch

EVENT = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n'
FAILED = b'data: {"error": {"message": "too late"}}\n\n'


@contextlib.contextmanager
def answering(status: str, headers: str, body: bytes) -> Iterator[Endpoint]:
    """A server that gives one answer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                head = f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n"
                connection.sendall(head.encode() + body)

        thread = threading.Thread(target=answer)
        thread.start()
        yield Endpoint(host="127.0.0.1", port=listener.getsockname()[1], model="m")
        thread.join(10)


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        ("429 Too Many Requests", "retry-after: 7\r\n", b"{}", (429, 7, False)),
        ("504 Gateway Timeout", "", b"{}", (504, None, False)),
        ("200 OK", "", FAILED, (200, None, False)),
        ("200 OK", "", EVENT + USAGE, (200, None, True)),
    ],
)
async def test_whatever_is_answered_is_taken(
    status: str, headers: str, body: bytes, expected: tuple[int, int | None, bool]
) -> None:
    with answering(status, headers, body) as endpoint:
        attempt = await attempt_chat(endpoint, "?", 1, 10.0)
    assert (attempt.status, attempt.retry_after_s, attempt.sample is not None) == expected
    assert attempt.sent_s < attempt.ended_s


async def test_no_answer_at_all_is_an_error() -> None:
    with answering("garbage", "", b"") as endpoint, pytest.raises(BenchError, match="HTTP"):
        await attempt_chat(endpoint, "?", 1, 10.0)


def attempt(sent_s: float, *times_s: float, tokens: int = 4) -> Attempt:
    sample = StreamSample(
        sent_s=sent_s,
        token_times_s=times_s,
        ended_s=times_s[-1],
        prompt_tokens=1,
        completion_tokens=tokens,
        cached_tokens=0,
        text="",
    )
    return Attempt(sent_s=sent_s, ended_s=times_s[-1], status=200, retry_after_s=None, sample=sample)


def test_only_tokens_between_the_ramp_and_the_end_count() -> None:
    refused = Attempt(sent_s=107.0, ended_s=107.1, status=429, retry_after_s=1, sample=None)
    attempts = (
        attempt(101.0, 101.5, 104.0),  # two tokens an event, of which the first comes in the ramp
        attempt(103.0, 105.0, 106.0, 107.0, 108.0),
        attempt(109.0, 111.0, 112.0),  # after the end
        refused,
    )
    load = LoadSample(attempts=attempts, began_s=100.0, seconds=8.0)
    assert load.tokens_per_s == pytest.approx((2 + 3) / 6.0)  # half open: the last of the second one is too late
    assert load.num_tokens == 12
    assert load.steady == [*attempts[1:]]


def test_memory_is_watched_while_the_block_runs() -> None:
    pid = int(Path("/proc/self").resolve().name)
    with MemoryWatch(pid) as memory:
        asyncio.run(asyncio.sleep(0))
    assert memory.peak_bytes(0.0, 60.0) > 1 << 20
