from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.comparison import ratios, summaries
from bench.engine.comparison import comparisons
from bench.result import RoundResult

RATES = st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=5)


def round_of(number: int, contender: str, **metrics: float) -> RoundResult:
    named = {name.replace("_at_", "@"): value for name, value in metrics.items()}
    return RoundResult(round_number=number, contender=contender, load_average_1=0.0, metrics=named, details={})


@given(RATES, st.floats(0.1, 10.0))
def test_a_ratio_is_taken_within_a_round(rates: list[float], faster: float) -> None:
    """The machine's speed differs from round to round and cancels out."""
    rounds = [
        result
        for number, rate in enumerate(rates)
        for result in (
            round_of(number, "transformers", tokens_per_s_at_8=rate),
            round_of(number, "pilotlight", tokens_per_s_at_8=rate * faster),
        )
    ]
    (ratio,) = ratios(rounds, comparisons([8]))
    assert ratio.summary.num_samples == len(rates)
    assert ratio.summary.low == pytest.approx(faster)
    assert ratio.summary.high == pytest.approx(faster)


def test_rounds_in_which_one_side_failed_do_not_count() -> None:
    rounds = [
        round_of(0, "pilotlight", long_ttft_ms=100.0, repeated_ttft_ms=5.0),
        round_of(1, "pilotlight", long_ttft_ms=100.0, repeated_ttft_ms=10.0),
        round_of(1, "llama-cpp", long_ttft_ms=400.0),
    ]
    by_name = {ratio.denominator: ratio.summary for ratio in ratios(rounds, comparisons([1]))}
    assert by_name["llama-cpp long_ttft_ms"].median == 0.25
    assert by_name["llama-cpp long_ttft_ms"].num_samples == 1
    assert by_name["pilotlight long_ttft_ms"].median == pytest.approx(0.075)
    assert len(by_name) == 2


def test_summaries_are_by_contender_and_metric() -> None:
    rounds = [round_of(0, "engine", a=1.0), round_of(1, "engine", a=3.0, b=5.0), round_of(0, "pilotlight", a=7.0)]
    found = summaries(rounds)
    assert {name: set(metrics) for name, metrics in found.items()} == {"engine": {"a", "b"}, "pilotlight": {"a"}}
    assert (found["engine"]["a"].median, found["engine"]["a"].num_samples) == (2.0, 2)
