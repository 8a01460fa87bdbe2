"""One streamed chat completion over a plain socket, every byte with its time. Knows the OpenAI wire, no server.

Made to be cheap, for client and server share the cores: while an answer comes in, pieces are only kept with their
arrival times, and read as events when it is over. The same client serves every server that is compared.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import httptools
import msgspec
import orjson

from bench.errors import BenchError

_END = b"\n\n"


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where to ask and how.

    Attributes:
        host: address.
        port: TCP port.
        model: its name in requests.
        extra: further fields of each request: what makes this server generate to the end, and count its tokens.
    """

    host: str
    port: int
    model: str
    extra: dict[str, Any] = {}


class StreamSample(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. Times are of `time.perf_counter`.

    Attributes:
        sent_s: when the request was sent.
        token_times_s: arrival of each event with text, in order. An event may hold several tokens.
        ended_s: arrival of the last byte.
        prompt_tokens: as the server counted them.
        completion_tokens: likewise.
        cached_tokens: of the prompt, from the prefix cache; None where the server does not say.
        text: of the answer.
    """

    sent_s: float
    token_times_s: tuple[float, ...]
    ended_s: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None
    text: str

    @property
    def ttft_s(self) -> float:
        """From sending to the first text."""
        return self.token_times_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Between one event with text and the next."""
        return [after - before for before, after in itertools.pairwise(self.token_times_s)]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One request to a server that may refuse. Times are of `time.perf_counter`.

    Attributes:
        sent_s: when it was sent, on a connection that had yet to be made.
        ended_s: arrival of the last byte.
        status: of the answer.
        retry_after_s: as the server said it, None where it did not.
        sample: the answer, None where there is none: it was refused, or its stream broke off with an error.
    """

    sent_s: float
    ended_s: float
    status: int
    retry_after_s: int | None
    sample: StreamSample | None


async def stream_chat(endpoint: Endpoint, prompt: str, max_tokens: int, timeout_s: float) -> StreamSample:
    """Ask one question on a connection of its own.

    Raises:
        BenchError: the server refused, failed, went away, was silent for too long, or did not give `max_tokens` tokens.
    """
    answer, sent_s, ended_s = await _ask(endpoint, prompt, max_tokens, timeout_s)
    if answer.status != 200:
        raise BenchError(f"{endpoint.model}: status {answer.status}: {answer.body()[:500].decode(errors='replace')}")
    sample = _read_sample(answer.pieces, sent_s, ended_s)
    if sample.completion_tokens != max_tokens:
        raise BenchError(f"{endpoint.model}: {sample.completion_tokens} tokens came, {max_tokens} were asked for")
    return sample


async def attempt_chat(endpoint: Endpoint, prompt: str, max_tokens: int, timeout_s: float) -> Attempt:
    """Ask one question, and take whatever is answered.

    Raises:
        BenchError: there was no answer in HTTP, or no end of it in time.
    """
    answer, sent_s, ended_s = await _ask(endpoint, prompt, max_tokens, timeout_s)
    sample = None
    if answer.status == 200 and b'data: {"error"' not in answer.pieces[-1][1]:
        sample = _read_sample(answer.pieces, sent_s, ended_s)
    assert answer.status is not None
    return Attempt(
        sent_s=sent_s, ended_s=ended_s, status=answer.status, retry_after_s=answer.retry_after_s, sample=sample
    )


async def _ask(endpoint: Endpoint, prompt: str, max_tokens: int, timeout_s: float) -> tuple[_Answer, float, float]:
    """The answer, when it was asked for, and when it was whole."""
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": True,
    } | endpoint.extra
    request = _request(endpoint, orjson.dumps(body))
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            sent_s = time.perf_counter()
            transport, answer = await loop.create_connection(_Answer, endpoint.host, endpoint.port)
            try:
                transport.write(request)
                ended_s = await answer.ended
            finally:
                transport.close()
    except TimeoutError as error:
        raise BenchError(f"{endpoint.model}: no whole answer within {timeout_s:g} s") from error
    except OSError as error:
        raise BenchError(f"{endpoint.model}: {error}") from error
    return answer, sent_s, ended_s


def split_events(pieces: list[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
    """The `data` of each server-sent event with the arrival time of the piece that completed it."""
    events = []
    rest = b""
    for time_s, piece in pieces:
        *whole, rest = (rest + piece).replace(b"\r\n", b"\n").split(_END)
        events += [(time_s, event[5:].strip()) for event in whole if event.startswith(b"data:")]
    return events


def _read_sample(pieces: list[tuple[float, bytes]], sent_s: float, ended_s: float) -> StreamSample:
    times: list[float] = []
    text: list[str] = []
    usage: dict[str, Any] | None = None
    for time_s, data in split_events(pieces):
        if data == b"[DONE]":
            continue
        event = orjson.loads(data)
        if "error" in event:
            raise BenchError(f"the stream broke off: {event['error']}")
        usage = event.get("usage") or usage
        content = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        if content:
            times.append(time_s)
            text.append(content)
    if usage is None or not times:
        raise BenchError(f"an answer without {'text' if usage else 'usage'} cannot be measured")
    return StreamSample(
        sent_s=sent_s,
        token_times_s=tuple(times),
        ended_s=ended_s,
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        text="".join(text),
    )


def _request(endpoint: Endpoint, body: bytes) -> bytes:
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {endpoint.host}:{endpoint.port}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class _Answer(asyncio.Protocol):
    """Collects the body of an answer."""

    def __init__(self) -> None:
        self.pieces: list[tuple[float, bytes]] = []
        self.status: int | None = None
        self.retry_after_s: int | None = None
        self.ended: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._now_s = 0.0

    def body(self) -> bytes:
        """All of it so far."""
        return b"".join(piece for _, piece in self.pieces)

    def data_received(self, data: bytes) -> None:
        self._now_s = time.perf_counter()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(f"no HTTP came back: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(f"the connection was lost: {exc or 'closed by the server'}")

    def on_header(self, name: bytes, value: bytes) -> None:
        if name == b"retry-after":
            self.retry_after_s = int(value)

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self.pieces.append((self._now_s, body))

    def on_message_complete(self) -> None:
        if not self.ended.done():
            self.ended.set_result(self._now_s)

    def _fail(self, message: str) -> None:
        if not self.ended.done():
            self.ended.set_exception(BenchError(message))
