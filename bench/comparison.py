"""What is compared with what, and the figures derived from the rounds. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from bench.result import Ratio, RoundResult
from bench.stats import Summary, summarise


class Comparison(msgspec.Struct, frozen=True):
    """Two metrics, each as (contender, metric)."""

    name: str
    numerator: tuple[str, str]
    denominator: tuple[str, str]


def summaries(rounds: Sequence[RoundResult]) -> dict[str, dict[str, Summary]]:
    """Every metric of every contender over the rounds."""
    samples: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in rounds:
        for metric, value in result.metrics.items():
            samples[result.contender][metric].append(value)
    return {
        contender: {metric: summarise(values) for metric, values in metrics.items()}
        for contender, metrics in samples.items()
    }


def ratios(rounds: Sequence[RoundResult], comparisons: Sequence[Comparison]) -> tuple[Ratio, ...]:
    """Every comparison whose two sides were measured in at least one common round."""
    values = {
        (result.contender, metric, result.round_number): value
        for result in rounds
        for metric, value in result.metrics.items()
    }
    numbers = sorted({result.round_number for result in rounds})
    found = []
    for comparison in comparisons:
        pairs = [
            (values.get((*comparison.numerator, number)), values.get((*comparison.denominator, number)))
            for number in numbers
        ]
        quotients = [above / below for above, below in pairs if above is not None and below]
        if quotients:
            found.append(
                Ratio(
                    name=comparison.name,
                    numerator=" ".join(comparison.numerator),
                    denominator=" ".join(comparison.denominator),
                    summary=summarise(quotients),
                )
            )
    return tuple(found)
