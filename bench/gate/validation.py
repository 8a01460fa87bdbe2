"""Whether the gate is right: `python -m bench.gate.validation --out FILE`, in a checkout without changes.

It runs the gate over and over, as a user would, between commits of a copy of the repository: commits that differ by a
comment, which must not fail; and commits that slow the function down by a known amount, which must. How much of each
injection is wanted is found out first. Each run is a line of the file, and so is each of those calibrations. A file
that is there already is gone on with, so hours of it can be had in pieces.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from bench.counts import count
from bench.gate.calibration import Calibration, calibrate
from bench.gate.clone import Clone
from bench.gate.git import repository_at
from bench.gate.injections import END_TO_END, MICRO, Injection
from bench.gate.metrics import SAMPLED
from bench.gate.pair import Pair
from bench.gate.result import MetricVerdict, Verdict
from bench.gate.statistics import slowdowns
from bench.rounds import show_progress

Kind = Literal["same", "micro", "end-to-end"]

_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "same": ("--quick",),
    "micro": ("--only", "micro"),
    "end-to-end": ("--only", "stub", "--only", "model", "--only", "log"),
}
"""Of the gate. Where nothing is to be found, more rounds could not find it. What slows a request down also shows in the
instructions of a path, which would end the run before the whole request had been found to be slower."""

_INJECTIONS: dict[Kind, Sequence[Injection]] = {"same": (), "micro": MICRO, "end-to-end": END_TO_END}
_SAMPLED = {metric.name: metric for metric in SAMPLED}


class Run(msgspec.Struct, frozen=True, kw_only=True, tag="run", tag_field="line"):
    """One run of the gate.

    Attributes:
        revision: that it was compared with.
        kind: whether something was injected, and of what size.
        injection: its name; None for two sides that are the same.
        amount: loops or bytes that were injected.
        verdict: of the gate.
        failed: metrics that failed.
        inconclusive: metrics of which it could not say.
        slowdowns: of all metrics.
        base: medians of the base, of all metrics.
        rounds: of each metric but those of micro paths, how much slower the head was in each round.
        num_rounds: that it took.
        duration_s: likewise.
        load_average: of the machine when it began.
        is_right: whether it said what it had to say: fail, with the metric that was slowed down; or anything but fail.
    """

    revision: str
    kind: Kind
    injection: str | None
    amount: int
    verdict: str
    failed: tuple[str, ...]
    inconclusive: tuple[str, ...]
    slowdowns: dict[str, float]
    base: dict[str, float]
    rounds: dict[str, tuple[float, ...]]
    num_rounds: int
    duration_s: float
    load_average: float
    is_right: bool


Line = Run | Calibration
L = TypeVar("L", Run, Calibration)


class Log:
    """The file: what was run so far, and what is to be added."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path.exists() else []
        self._lines: list[Line] = [msgspec.json.decode(line, type=Line) for line in lines]

    @property
    def runs(self) -> list[Run]:
        """Of the gate."""
        return [line for line in self._lines if isinstance(line, Run)]

    def amount(self, injection: Injection, has_function_of: Callable[[str], bool]) -> int | None:
        """How much of it is wanted, if that was found out for a revision that has the same function."""
        for line in self._lines:
            if isinstance(line, Calibration) and line.injection == injection.name and has_function_of(line.revision):
                return line.amount
        return None

    def add(self, line: L) -> L:
        """Write a line, at once."""
        self._lines.append(line)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")
        return line


def main() -> None:
    """Run what is missing, then say how often the gate was right."""
    parser = argparse.ArgumentParser(description="Validates the gate.")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="of JSON lines")
    parser.add_argument("--same", type=int, default=50, help="runs with nothing to be found (50)")
    parser.add_argument("--micro", type=int, default=20, help="runs with 5 %% in a micro path (20)")
    parser.add_argument("--end-to-end", type=int, default=20, help="runs with 10 %% in a whole (20)")
    parser.add_argument("--minutes", type=count, default=24 * 60, help="after which no run begins (a day)")
    args = parser.parse_args()
    end_s = time.monotonic() + args.minutes * 60
    log = Log(args.out)
    with tempfile.TemporaryDirectory(prefix="pilotlight-gate-") as directory:
        clone = Clone(repository_at(Path.cwd()), Path(directory) / "clone")
        wanted: dict[Kind, int] = {"same": args.same, "end-to-end": args.end_to_end, "micro": args.micro}
        while (kind := next_kind(wanted, log.runs)) is not None and time.monotonic() < end_s:
            number = sum(run.kind == kind for run in log.runs)
            run = validate(kind, number, log, clone)
            said = f"{run.verdict}, {'right' if run.is_right else 'WRONG'}"
            show_progress(f"{kind} {number + 1} of {wanted[kind]}: {said}")
    for line in summary(log.runs):
        show_progress(line)


def next_kind(wanted: dict[Kind, int], runs: list[Run]) -> Kind | None:
    """That of which the smallest part has been run, so that every part of the file says something of all."""
    done = {kind: sum(run.kind == kind for run in runs) for kind in wanted}
    missing = [kind for kind in wanted if done[kind] < wanted[kind]]
    return min(missing, key=lambda kind: done[kind] / wanted[kind], default=None)


def summary(runs: list[Run]) -> Iterator[str]:
    """How often it was right, and how long it took."""
    for kind in ("same", "micro", "end-to-end"):
        chosen = [run for run in runs if run.kind == kind]
        if chosen:
            right = sum(run.is_right for run in chosen)
            durations = sorted(run.duration_s for run in chosen)
            yield (
                f"{kind}: right in {right} of {len(chosen)}, inconclusive in "
                f"{sum(run.verdict == 'inconclusive' for run in chosen)}; took "
                f"{statistics.median(durations):.0f} s, {durations[-1]:.0f} s at most"
            )


def validate(kind: Kind, number: int, log: Log, clone: Clone) -> Run:
    """One run of the gate, added to the log; and before it a calibration, where what it takes is not known."""
    if injections := _INJECTIONS[kind]:
        injection = injections[number % len(injections)]
        amount = log.amount(injection, clone.has_function_of)
        if amount is None:
            show_progress(f"how much slows {injection.name} down by {injection.share:.0%}?")
            amount = log.add(calibrate(injection, clone)).amount
        clone.inject(injection, amount)
    else:
        injection, amount = None, 0
        clone.change_comment()
    load_average = os.getloadavg()[0]
    result = clone.gate("--seed", str(number), *_OPTIONS[kind])
    failed = _names(result.metrics, "fail")
    return log.add(
        Run(
            revision=clone.base,
            kind=kind,
            injection=None if injection is None else injection.name,
            amount=amount,
            verdict=result.verdict,
            failed=failed,
            inconclusive=_names(result.metrics, "inconclusive"),
            slowdowns={metric.name: round(metric.slowdown, 4) for metric in result.metrics},
            base={metric.name: metric.base_median for metric in result.metrics},
            rounds={
                each.name: tuple(
                    round(slower, 4) for slower in slowdowns(_SAMPLED[each.name], Pair(each.base, each.head))
                )
                for each in result.metrics
                if each.name in _SAMPLED
            },
            num_rounds=result.num_rounds,
            duration_s=round(result.duration_s, 1),
            load_average=load_average,
            is_right=injection.metric.name in failed if injection else result.verdict != "fail",
        )
    )


def _names(metrics: Iterable[MetricVerdict], verdict: Verdict) -> tuple[str, ...]:
    return tuple(metric.name for metric in metrics if metric.verdict == verdict)


if __name__ == "__main__":
    main()
