"""Whether samples of two sides show that one is slower. Pure: the same samples give the same verdict.

The unit is the round: fresh processes on both sides, neighbours in time. What drifts with the machine is in both and
cancels out in their ratio; what a process happens to get (layout of memory, seed of the hashes) differs between rounds.

Two tests of each metric, both Wilcoxon's signed-rank test (1945) on the logarithms of the rounds' slowdowns:

- slower by more than the margin? One that is shown fails the gate. As one metric in several is enough, the p-values are
  adjusted by Holm's procedure (1979).
- slower by less than the limit? That must be shown of each metric for the gate to pass. As all must show it, nothing is
  adjusted (intersection-union, Berger 1982). And none may look slower by more than the margin, taken by itself: what
  is surely between the two is no reason to pass while further rounds may show it to be slower.

Samples are looked at several times, and each look gets an equal part of ALPHA (Bonferroni): looking again and again
until something is found would find something.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats as scipy_stats

from bench.gate.metrics import Metric
from bench.gate.pair import Pair
from bench.gate.result import MetricVerdict, Verdict
from bench.stats import CONFIDENCE

ALPHA = 0.05
"""Of all looks and metrics together: how often a gate may fail where nothing is slower by more than the margin."""

MIN_ROUNDS = 7
"""Of fewer, one round out of line would leave a metric open, however little: of six, p is 2 / 2**6 then."""

_RESAMPLES = 4000


def judge(samples: Mapping[Metric, Pair[Sequence[float]]], num_looks: int) -> tuple[MetricVerdict, ...]:
    """The verdict on each metric, whose two sides have a sample for each round (one each, where it is counted).

    Args:
        samples: by metric, in the order in which they are shown.
        num_looks: how often samples are judged at most, this time included.
    """
    slower = {metric: _p_slower(metric, pair) for metric, pair in samples.items() if metric.kind == "sampled"}
    adjusted = dict(zip(slower, holm(list(slower.values())), strict=True))
    alpha = ALPHA / num_looks
    suspected = {metric for metric, p_value in slower.items() if p_value < alpha}
    return tuple(
        _verdict(metric, pair, adjusted.get(metric), alpha, may_pass=metric not in suspected)
        for metric, pair in samples.items()
    )


def overall(verdicts: Sequence[MetricVerdict], num_unmeasured: int) -> Verdict:
    """One metric that fails is enough; all must pass, and all must have been measured."""
    found = {verdict.verdict for verdict in verdicts}
    if "fail" in found:
        return "fail"
    return "inconclusive" if "inconclusive" in found or num_unmeasured or not verdicts else "pass"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given (Holm 1979): the smallest counts as often as there are tests, and so on."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


def slowdowns(metric: Metric, pair: Pair[Sequence[float]]) -> list[float]:
    """Round by round."""
    return [metric.slowdown(base, head) for base, head in zip(*pair, strict=True)]


def _p_slower(metric: Metric, pair: Pair[Sequence[float]]) -> float:
    return _wilcoxon(slowdowns(metric, pair), metric.margin, "greater")


def _wilcoxon(ratios: Sequence[float], bound: float, alternative: str) -> float:
    """How likely such ratios are if their middle lies on the other side of `bound`."""
    differences = [math.log(ratio / bound) for ratio in ratios]
    return float(scipy_stats.wilcoxon(differences, alternative=alternative).pvalue)


def _verdict(
    metric: Metric, pair: Pair[Sequence[float]], p_value: float | None, alpha: float, *, may_pass: bool
) -> MetricVerdict:
    ratios = slowdowns(metric, pair)
    median = statistics.median(ratios)
    verdict: Verdict = "inconclusive"
    if p_value is None:
        verdict = "fail" if median > metric.margin else "pass"
    elif p_value < alpha:
        verdict = "fail"
    elif may_pass and _wilcoxon(ratios, metric.limit, "less") < alpha:
        verdict = "pass"
    return MetricVerdict(
        name=metric.name,
        label=metric.label,
        unit=metric.unit,
        kind=metric.kind,
        base_median=statistics.median(pair.base),
        head_median=statistics.median(pair.head),
        slowdown=median,
        interval=_interval(ratios) if metric.kind == "sampled" and len(ratios) >= 3 else None,
        confidence=CONFIDENCE,
        p_value=p_value,
        limit=metric.limit,
        margin=metric.margin,
        num_rounds=len(ratios),
        verdict=verdict,
        base=tuple(pair.base),
        head=tuple(pair.head),
    )


def _interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Bootstrap interval of the median at CONFIDENCE, bias-corrected where the samples allow it (Efron 1987)."""
    data = (np.asarray(ratios),)
    method = "BCa" if len(set(ratios)) > 2 else "percentile"
    found = scipy_stats.bootstrap(
        data, np.median, confidence_level=CONFIDENCE, n_resamples=_RESAMPLES, method=method, rng=0
    ).confidence_interval
    return float(found.low), float(found.high)
