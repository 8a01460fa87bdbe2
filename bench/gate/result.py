"""What the gate says of two revisions, and of each metric. Pure."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bench.environment import Environment

Verdict = Literal["pass", "fail", "inconclusive"]
"""Not slower by the limit; slower by more than the margin; neither could be shown within the budget."""

Kind = Literal["sampled", "counted"]
"""Measured again in each round, and noisy; or counted once by a simulated processor, and the same each time."""

FORMAT_VERSION = 1


class Revision(msgspec.Struct, frozen=True, kw_only=True):
    """One side.

    Attributes:
        name: as it was asked for, such as `main`.
        commit: its full hash.
        subject: first line of its message.
    """

    name: str
    commit: str
    subject: str


class MetricVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One metric. A slowdown is the cost of the head over that of the base: 1.10 is 10 % slower, dearer or larger.

    Attributes:
        name: such as `requests_per_s`.
        label: what it is, in words.
        unit: of the two medians, such as `1/s`, `ms`, `MiB` or `instructions`.
        kind: how it was come by.
        base_median: over the rounds.
        head_median: likewise.
        slowdown: median of the rounds' slowdowns.
        interval: bootstrap interval of that median; None for a counted metric and for fewer than three rounds.
        confidence: of the interval, such as 0.95.
        p_value: of Wilcoxon's signed-rank test that it is not slower than the margin, adjusted for the number of
            metrics (Holm); None for a counted metric.
        limit: a slowdown that must not get through.
        margin: a slowdown that is let through; between the two lies what needs more rounds to tell.
        num_rounds: with both sides measured.
        verdict: of this metric.
        base: samples by round.
        head: likewise.
    """

    name: str
    label: str
    unit: str
    kind: Kind
    base_median: float
    head_median: float
    slowdown: float
    interval: tuple[float, float] | None
    confidence: float
    p_value: float | None
    limit: float
    margin: float
    num_rounds: int
    verdict: Verdict
    base: tuple[float, ...]
    head: tuple[float, ...]


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run.

    Attributes:
        base: what is compared with.
        head: what is compared.
        verdict: fail where a metric failed, else inconclusive where one is, else pass.
        metrics: in the order in which they are shown.
        errors: what could not be measured, in words; others went on.
        notes: what a reader should know of how it was measured, such as a program that was missing.
        num_rounds: that were run.
        duration_s: of the whole run.
        environment: of the machine.
        arguments: the command line.
        plan: how it was measured.
        benchmark: its name on the command line.
        format_version: of this file.
    """

    base: Revision
    head: Revision
    verdict: Verdict
    metrics: tuple[MetricVerdict, ...]
    errors: tuple[str, ...]
    notes: tuple[str, ...]
    num_rounds: int
    duration_s: float
    environment: Environment
    arguments: tuple[str, ...]
    plan: dict[str, Any]
    benchmark: str = "gate"
    format_version: int = FORMAT_VERSION
