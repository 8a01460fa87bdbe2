from __future__ import annotations

from bench.coldstart.plan import OF_FLOOR, OF_TRANSFORMERS, missed_goals
from bench.result import Ratio
from bench.stats import summarise


def _ratio(name: str, *values: float) -> Ratio:
    return Ratio(name=name, numerator="", denominator="", summary=summarise(values))


def test_medians_decide() -> None:
    ours = {"health_s": summarise([0.1, 0.2, 5.0]), "first_token_s": summarise([1.1, 1.1, 9.0])}
    ratios = [_ratio(OF_FLOOR, 1.4, 1.4, 2.0), _ratio(OF_TRANSFORMERS, 1.0, 5.1, 6.0)]
    assert missed_goals(ours, ratios, has_goals_in_seconds=True) == []


def test_each_goal_can_be_missed() -> None:
    ours = {"health_s": summarise([0.4]), "first_token_s": summarise([1.3])}
    ratios = [_ratio(OF_FLOOR, 1.6), _ratio(OF_TRANSFORMERS, 4.9)]
    missed = missed_goals(ours, ratios, has_goals_in_seconds=True)
    assert [line.split()[0] for line in missed] == ["health_s", "first_token_s", "first", "transformers'"]
    assert len(missed_goals(ours, ratios, has_goals_in_seconds=False)) == 2, "another model has none in seconds"


def test_what_was_not_measured_is_not_missed() -> None:
    assert missed_goals({}, [], has_goals_in_seconds=True) == []
