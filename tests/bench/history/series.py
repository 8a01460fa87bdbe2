"""Made-up histories: figures that scatter about a level, and another level from some commit on."""

from __future__ import annotations

import random

from bench.history.entry import Entry, Metric

CPU = "Some Processor @ 2.0 GHz"


def commit_of(number: int) -> str:
    return f"{number:08x}".ljust(40, "0")


def entry(number: int, values: dict[str, float], cpu_model: str = CPU) -> Entry:
    """A commit's entry; names that end in `per_s` are rates, all others costs in ms."""
    metrics = {
        name: Metric(value=value, unit="1/s", better="higher")
        if name.endswith("per_s")
        else Metric(value=value, unit="ms", better="lower")
        for name, value in values.items()
    }
    return Entry(
        commit=commit_of(number), taken_at=f"2026-01-01T00:{number:02}:00+00:00", cpu_model=cpu_model, metrics=metrics
    )


def noisy(num_commits: int, *, seed: int, share: float = 0.02) -> list[float]:
    """Values about 1 with a standard deviation of `share`."""
    rng = random.Random(seed)
    return [rng.gauss(1.0, share) for _ in range(num_commits)]


def stepped(values: list[float], *, at: int, by: float) -> list[float]:
    """The values, from commit `at` on times `by`."""
    return [value * (by if number >= at else 1.0) for number, value in enumerate(values)]
