"""Rounds: every contender once in each, in an order that is drawn anew. Knows nothing of what they measure."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from bench.errors import BenchError
from bench.result import Failure, RoundResult


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one contender showed in one round.

    Attributes:
        metrics: figures by name; the name ends in the unit, and in @N where N clients or sequences were at work.
        details: raw samples and facts behind them.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = {}


class Contender(Protocol):
    """Somebody who is started, measured alone on the machine, and ended, in every round."""

    @property
    def name(self) -> str:
        """As results call it."""
        ...

    def measure(self, round_number: int) -> Measurement:
        """One round.

        Raises:
            BenchError: it could not be measured.
        """
        ...


def run_rounds(
    contenders: Sequence[Contender], num_rounds: int, rng: random.Random, progress: Callable[[str], None]
) -> tuple[list[RoundResult], list[Failure]]:
    """Each contender once a round, in a new random order; one that fails does not stop the others."""
    rounds, failures = [], []
    for number in range(num_rounds):
        for contender in rng.sample(contenders, k=len(contenders)):
            progress(f"round {number + 1} of {num_rounds}: {contender.name}")
            load = os.getloadavg()[0]
            try:
                measured = contender.measure(number)
            except BenchError as error:
                progress(str(error))
                failures.append(Failure(round_number=number, contender=contender.name, error=str(error)))
                continue
            rounds.append(
                RoundResult(
                    round_number=number,
                    contender=contender.name,
                    load_average_1=load,
                    metrics=measured.metrics,
                    details=measured.details,
                )
            )
    return rounds, failures


def show_progress(line: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
