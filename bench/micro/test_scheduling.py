"""How long the scheduler thinks."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.paths import PATHS
from bench.micro.scheduling import COMPLETION_TOKENS, NUM_SEQUENCES


def test_scheduler(benchmark: BenchmarkFixture) -> None:
    """All steps of 16 sequences; `extra_info` says how many."""
    num_steps = benchmark(PATHS["scheduler"]())
    assert COMPLETION_TOKENS < num_steps < COMPLETION_TOKENS + NUM_SEQUENCES  # prompts take some, decoding goes beside
    benchmark.extra_info["num_steps"] = num_steps
