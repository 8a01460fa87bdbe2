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


def comparisons(clients: Sequence[int]) -> list[Comparison]:
    """All that this benchmark compares; those whose contenders did not run stay empty."""
    found = [
        Comparison(
            "time to first token of a long prompt, to llama-cpp-python's",
            ("pilotlight", "long_ttft_ms"),
            ("llama-cpp", "long_ttft_ms"),
        ),
        Comparison(
            "time to first token of the same prompt again, to its own first",
            ("pilotlight", "repeated_ttft_ms"),
            ("pilotlight", "long_ttft_ms"),
        ),
        Comparison(
            "largest gap of running streams beside a long prompt, to the time of one chunk",
            ("engine", "stall_gap_max_ms"),
            ("engine", "chunk_max_ms"),
        ),
    ]
    for count in clients:
        rate = f"tokens_per_s@{count}"
        found += [
            Comparison(f"{count} clients, to transformers serve", ("pilotlight", rate), ("transformers", rate)),
            Comparison(
                f"{count} clients, to llama-cpp-python's single stream",
                ("pilotlight", rate),
                ("llama-cpp", "decode_tokens_per_s"),
            ),
            Comparison(f"{count} clients over HTTP, to the engine alone", ("pilotlight", rate), ("engine", rate)),
            Comparison(
                f"batch of {count}, to transformers' continuous batching",
                ("engine", rate),
                ("transformers-batch", rate),
            ),
        ]
    return found


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


def ratios(rounds: Sequence[RoundResult], clients: Sequence[int]) -> tuple[Ratio, ...]:
    """Every comparison whose two sides were measured in at least one common round."""
    values = {
        (result.contender, metric, result.round_number): value
        for result in rounds
        for metric, value in result.metrics.items()
    }
    numbers = sorted({result.round_number for result in rounds})
    found = []
    for comparison in comparisons(clients):
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
