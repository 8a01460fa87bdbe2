from __future__ import annotations

import pytest

from bench.overload.plan import Plan, missed_goals

PLAN = Plan(rounds=1, seconds=30, factor=5, tokens=64, queue_timeout_s=10, batch_size=16, seed=0)
GOOD = {
    "throughput_share@5x": 0.95,
    "ttft_p99_ms@5x": 8000.0,
    "broken_share@5x": 0.0,
    "refusal_p99_ms@5x": 5.0,
    "rss_bytes": 100.0,
    "rss_growth_bytes": 1.0,
}


def test_a_good_run_misses_nothing() -> None:
    assert missed_goals(GOOD, PLAN) == []


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("throughput_share@5x", 0.85, "0.85 of its peak"),
        ("ttft_p99_ms@5x", 10_500.0, "10.5 s"),
        ("broken_share@5x", 0.01, "no whole answer"),
        ("refusal_p99_ms@5x", 12.0, "12.0 ms"),
        ("rss_growth_bytes", 6.0, "grew by 6%"),
    ],
)
def test_each_goal_can_be_missed(metric: str, value: float, words: str) -> None:
    (missed,) = missed_goals(GOOD | {metric: value}, PLAN)
    assert words in missed
