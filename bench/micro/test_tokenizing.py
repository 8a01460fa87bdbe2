"""How long text takes to become tokens, and tokens text, with the embedded model's tokenizer."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.paths import PATHS
from bench.micro.tokenizing import ANSWER, NUM_PROMPT_TOKENS

pytestmark = pytest.mark.usefixtures("embedded_model")


def test_encode(benchmark: BenchmarkFixture) -> None:
    """A prompt of 200 tokens."""
    assert len(benchmark(PATHS["encode"]())) == NUM_PROMPT_TOKENS


def test_incremental_decode(benchmark: BenchmarkFixture) -> None:
    """64 tokens, one by one."""
    assert benchmark(PATHS["incremental_decode"]()) == ANSWER
