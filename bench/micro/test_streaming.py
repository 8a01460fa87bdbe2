"""How long the frames of a streamed answer take."""

from __future__ import annotations

import msgspec
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.paths import PATHS
from bench.micro.streaming import NUM_TOKENS, TEXTS


def test_sse(benchmark: BenchmarkFixture) -> None:
    """An answer of 64 tokens, with its usage."""
    *payloads, done, end = benchmark(PATHS["sse"]()).split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    chunks = [msgspec.json.decode(payload.removeprefix(b"data: ")) for payload in payloads]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert [delta["content"] for delta in deltas[1:-1]] == list(TEXTS)
    assert chunks[-1]["usage"]["completion_tokens"] == NUM_TOKENS
