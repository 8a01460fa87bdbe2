from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from bench.gate.metrics import EVENTS, REQUEST_CPU, SAMPLED, Metric, micro
from bench.gate.pair import Pair
from bench.gate.statistics import MIN_ROUNDS, holm, judge, overall


def _samples(metric: Metric, slowdown: float, rounds: int, seed: int = 0) -> Pair[Sequence[float]]:
    """Both sides drift together by 20 %, and differ by 3 % from round to round."""
    rng = random.Random(seed)
    base = [100 * rng.lognormvariate(0, 0.2) for _ in range(rounds)]
    factor = slowdown if metric.better == "lower" else 1 / slowdown
    return Pair(base, [value * factor * rng.lognormvariate(0, 0.03) for value in base])


def test_what_is_no_slower_passes_and_what_is_slower_fails_whichever_way_the_metric_counts() -> None:
    for metric in (REQUEST_CPU, EVENTS):
        (same,) = judge({metric: _samples(metric, 1.0, 16)}, 1)
        (slower,) = judge({metric: _samples(metric, 1.10, 16)}, 1)
        (faster,) = judge({metric: _samples(metric, 0.7, 16)}, 1)
        assert (same.verdict, slower.verdict, faster.verdict) == ("pass", "fail", "pass")
        assert slower.slowdown == pytest.approx(1.10, abs=0.03)
        assert slower.interval is not None
        assert slower.interval[0] < slower.slowdown < slower.interval[1]


def test_what_lies_between_margin_and_limit_is_inconclusive() -> None:
    (verdict,) = judge({REQUEST_CPU: _samples(REQUEST_CPU, 1.07, 8, seed=2)}, 5)
    assert verdict.verdict == "inconclusive"


def test_what_surely_lies_there_does_not_pass_while_more_rounds_may_show_it_to_be_slower() -> None:
    rng = random.Random(1)
    ratios = [1.09 * rng.lognormvariate(0, 0.005) for _ in range(10)]  # quieter than most: surely less than 1.10
    for rounds, verdict in ((7, "inconclusive"), (10, "fail")):
        samples = {metric: _samples(metric, 1.0, rounds, seed=n) for n, metric in enumerate(SAMPLED)}
        samples[REQUEST_CPU] = Pair([1.0] * rounds, ratios[:rounds])
        found = {each.name: each for each in judge(samples, 2)}
        assert found[REQUEST_CPU.name].verdict == verdict


def test_a_gate_of_many_metrics_and_looks_seldom_fails_where_nothing_is_slower() -> None:
    failures = 0
    for seed in range(100):
        samples = {metric: _samples(metric, 1.0, 24, seed=1000 * seed + n) for n, metric in enumerate(SAMPLED)}
        for look in (8, 12, 16, 24):
            part = {metric: Pair(pair.base[:look], pair.head[:look]) for metric, pair in samples.items()}
            failures += overall(judge(part, 4), 0) == "fail"
    assert failures <= 1


def test_one_slow_metric_among_many_is_found() -> None:
    found = 0
    for seed in range(20):
        samples = {
            metric: _samples(metric, 1.10 if metric is EVENTS else 1.0, 24, seed=1000 * seed + n)
            for n, metric in enumerate(SAMPLED)
        }
        found += {each.name for each in judge(samples, 4) if each.verdict == "fail"} == {EVENTS.name}
    assert found >= 19


def test_the_fewest_rounds_can_pass() -> None:
    (verdict,) = judge({REQUEST_CPU: _samples(REQUEST_CPU, 0.9, MIN_ROUNDS)}, 5)
    assert verdict.verdict == "pass"


def test_a_count_needs_no_rounds() -> None:
    metric = micro("decode", "counted")
    same, slower = (judge({metric: Pair([1000.0], [head])}, 5)[0] for head in (1001.0, 1050.0))
    assert (same.verdict, slower.verdict) == ("pass", "fail")
    assert (same.p_value, same.interval) == (None, None)


def test_p_values_are_adjusted_as_holm_says() -> None:
    # Holm 1979 by hand: 4 * 0.005, 3 * 0.01, 2 * 0.03, and never less than the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_what_was_not_measured_keeps_it_from_passing() -> None:
    passing = judge({REQUEST_CPU: _samples(REQUEST_CPU, 1.0, 16)}, 1)
    assert [overall(passing, 0), overall(passing, 1), overall((), 0)] == ["pass", "inconclusive", "inconclusive"]
