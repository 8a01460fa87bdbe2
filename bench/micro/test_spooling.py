"""How long it takes to keep what a request leaves behind."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.paths import PATHS
from bench.micro.spooling import NUM_RECORDS


def test_spool(benchmark: BenchmarkFixture) -> None:
    """256 records one by one, and the making and the end of their spool."""
    assert benchmark(PATHS["spool"]()) == NUM_RECORDS
