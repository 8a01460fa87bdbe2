"""How long it takes to choose tokens of a vocabulary of 49152."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.micro.sampling import CUT, DRAWN, GREEDY, VOCAB_SIZE, make_logits, sampling
from handler.engine.sampling_params import SamplingParams

KINDS = {"greedy": GREEDY, "temperature": DRAWN, "top_p": CUT}


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_sampler(benchmark: BenchmarkFixture, kind: str, batch: int) -> None:
    """A row of logits for each of a batch's sequences."""
    params = KINDS[kind]
    tokens = benchmark(sampling(batch, params))
    ranks = _ranks(batch, tokens)
    assert len(ranks) == batch
    assert max(ranks) <= _least_likely(params)


def _ranks(batch: int, tokens: list[int]) -> list[int]:
    """How many tokens of its row are likelier than each that was chosen."""
    logits = make_logits(batch)
    return [int((row > row[token]).sum()) for row, token in zip(logits, tokens, strict=True)]


def _least_likely(params: SamplingParams) -> int:
    """The largest rank that the parameters let through: probabilities fall with the rank's power of 2.5."""
    if params.temperature == 0:
        return 0
    return 4 if params.top_p < 1 else VOCAB_SIZE - 1
