"""How long a chat request takes until it can be tokenized, or is refused."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.paths import PATHS
from bench.micro.requests import BAD_BODIES
from handler.schema.messages import AssistantTurn, SystemMessage, UserMessage


def test_decode(benchmark: BenchmarkFixture) -> None:
    """Bytes to a validated request of four turns."""
    request = benchmark(PATHS["decode"]())
    assert [type(message) for message in request.messages] == [SystemMessage, UserMessage, AssistantTurn, UserMessage]
    assert (request.max_tokens, request.temperature, request.stream) == (256, 0.7, True)


def test_validation(benchmark: BenchmarkFixture) -> None:
    """The checks between fields, and those that need the model."""
    conversation, params = benchmark(PATHS["validation"]())
    assert [message["role"] for message in conversation.messages] == ["system", "user", "assistant", "user"]
    assert (params.max_tokens, params.stop, params.seed) == (256, ("\n\n", "User:"), 7)


def test_refusal(benchmark: BenchmarkFixture) -> None:
    """Eight bad bodies."""
    assert benchmark(PATHS["refusal"]()) == [field for _, field in BAD_BODIES]
