from __future__ import annotations

import msgspec
import pytest

from bench.compare.goals import GOALS, OURS
from bench.report.verdict import Verdict, verdict
from bench.result import Ratio
from bench.stats import Summary
from tests.bench.report.results import comparison


def judged(**intervals: tuple[float, float]) -> Verdict:
    """Of ratios to FastAPI whose intervals are these, by metric."""
    metrics = {"chat": "chat_requests_per_s@64", "p99": "chat_p99_ms@1000"}
    ratios = tuple(
        Ratio(
            name=name,
            numerator=f"{OURS} {metrics[name]}",
            denominator=f"fastapi {metrics[name]}",
            summary=Summary((low + high) / 2, low, high, (low, high), 5),
        )
        for name, (low, high) in intervals.items()
    )
    return verdict(msgspec.structs.replace(comparison(num_rounds=1, with_points=False), ratios=ratios))


def test_all_goals() -> None:
    said = verdict(comparison())
    assert (said.headline, said.state) == (f"All {len(GOALS)} goals reached", "good")


@pytest.mark.parametrize(("interval", "state"), [((3.1, 3.5), "good"), ((2.0, 2.9), "bad"), ((2.5, 3.5), "unsure")])
def test_a_goal_is_reached_or_missed_only_by_the_whole_interval(interval: tuple[float, float], state: str) -> None:
    said = judged(chat=interval)
    assert said.goals.rows[0].state == state
    assert said.headline == ("1" if state == "good" else "0") + f" of {len(GOALS)} goals reached"


def test_a_bounded_cost_is_shown_as_a_gain() -> None:
    row = judged(p99=(0.2, 0.25)).goals.rows[-1]
    assert row.state == "good"
    assert row.interval == (4.0, 5.0)
    assert [round(bound, 9) for bound in row.bounds] == [3.0]
    assert judged(p99=(0.3, 0.4)).goals.rows[-1].state == "unsure"
    assert judged(p99=(0.4, 0.5)).goals.rows[-1].state == "bad"


def test_nothing_measured_is_no_miss() -> None:
    said = judged()
    assert said.headline == "No goal was measured"
    assert {row.state for row in said.goals.rows} == {"absent"}
    assert said.state == "absent"


def test_without_intervals_all_rounds_must_reach_it() -> None:
    ratio = Ratio(
        name="",
        numerator=f"{OURS} chat_requests_per_s@64",
        denominator="fastapi chat_requests_per_s@64",
        summary=Summary(3.2, 2.9, 3.5, None, 2),
    )
    result = msgspec.structs.replace(comparison(num_rounds=2, with_points=False), ratios=(ratio,))
    row = verdict(result).goals.rows[0]
    assert (row.state, row.interval) == ("unsure", None)
