"""Whether the gate is right: `python -m bench.gate.validation --out FILE`, in a checkout without changes.

It runs the gate over and over, as a user would, between commits of a copy of the repository: commits that differ by a
comment, which must not fail; and commits that slow the function down by a known amount, which must. Each run is a line
of the file. A file that is there already is gone on with, so hours of it can be had in pieces.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec

from bench.children import OWN_MODULE, own_environment, run_script
from bench.counts import count
from bench.gate.git import repository_at
from bench.gate.injections import END_TO_END, Injection, micro_injections
from bench.gate.metrics import SAMPLED
from bench.gate.pair import Pair
from bench.gate.result import GateResult
from bench.gate.statistics import slowdowns
from bench.gate.timed import Spec
from bench.micro.paths import PATHS as CALLABLES
from bench.micro.spooling import NUM_RECORDS
from bench.micro.streaming import NUM_TOKENS
from bench.micro.tokenizing import NUM_ANSWER_TOKENS
from bench.rounds import show_progress

Kind = Literal["same", "micro", "end-to-end"]

_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "same": ("--quick",),
    "micro": ("--only", "micro"),
    "end-to-end": ("--only", "stub", "--only", "model", "--only", "log"),
}
"""Of the gate. Where nothing is to be found, more rounds could not find it. What slows a request down also shows in the
instructions of a path, which would end the run before the whole request had been found to be slower."""

_SAMPLED = {metric.name: metric for metric in SAMPLED}
_TIMEOUT_S = 1800.0
_LOOPS = 2_000_000
_TRIES = 5
_AUTHOR = ("-c", "user.name=validation", "-c", "user.email=validation@localhost")


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of the gate.

    Attributes:
        kind: whether something was injected, and of what size.
        injection: its name; None for two sides that are the same.
        amount: loops or bytes that were injected.
        verdict: of the gate.
        failed: metrics that failed.
        inconclusive: metrics of which it could not say.
        slowdowns: of all metrics.
        base: medians of the base, of all metrics.
        rounds: of each metric but those of micro paths, how much slower the head was in each round.
        loop_s: of a turn of an empty loop, at the time.
        num_rounds: that it took.
        duration_s: likewise.
        load_average: of the machine when it began.
        is_right: whether it said what it had to say: fail, with the metric that was slowed down; or anything but fail.
    """

    kind: Kind
    injection: str | None
    amount: int
    verdict: str
    failed: tuple[str, ...]
    inconclusive: tuple[str, ...]
    slowdowns: dict[str, float]
    base: dict[str, float]
    rounds: dict[str, tuple[float, ...]]
    loop_s: float
    num_rounds: int
    duration_s: float
    load_average: float
    is_right: bool


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
    runs = _read(args.out)
    with tempfile.TemporaryDirectory(prefix="pilotlight-gate-") as directory:
        validation = Validation(repository_at(Path.cwd()), Path(directory) / "clone")
        wanted: dict[Kind, int] = {"same": args.same, "end-to-end": args.end_to_end, "micro": args.micro}
        while (kind := next_kind(wanted, runs)) is not None and time.monotonic() < end_s:
            number = sum(run.kind == kind for run in runs)
            run = validation.run(kind, number, runs)
            runs.append(run)
            with args.out.open("ab") as file:
                file.write(msgspec.json.encode(run) + b"\n")
            said = f"{run.verdict}, {'right' if run.is_right else 'WRONG'}"
            show_progress(f"{kind} {number + 1} of {wanted[kind]}: {said}")
    for line in summary(runs):
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


class Validation:
    """A copy of the repository, to which commits are added."""

    def __init__(self, repository: Path, clone: Path) -> None:
        self._clone = clone
        subprocess.run(["git", "clone", "--quiet", "--shared", str(repository), str(clone)], check=True)  # noqa: S603, S607
        self._base = self._git("rev-parse", "HEAD")

    def run(self, kind: Kind, number: int, runs: list[Run]) -> Run:
        """One run of the gate."""
        injection, amount = self._inject(kind, number, runs)
        load_average, before_s = os.getloadavg()[0], loop_s()
        options = ("--json", "--seed", str(number), *_OPTIONS[kind])
        command = [*OWN_MODULE, "handler", "bench", "gate", self._base, "HEAD", *options]
        done = subprocess.run(  # noqa: S603  (our own arguments)
            command, cwd=self._clone, env=own_environment(), capture_output=True, timeout=_TIMEOUT_S, check=False
        )
        if done.returncode not in {0, 1} or not done.stdout:
            raise SystemExit(f"the gate ended with {done.returncode}:\n{done.stderr.decode()[-2000:]}")
        result = msgspec.json.decode(done.stdout, type=GateResult)
        failed = tuple(metric.name for metric in result.metrics if metric.verdict == "fail")
        return Run(
            kind=kind,
            injection=None if injection is None else injection.name,
            amount=amount,
            verdict=result.verdict,
            failed=failed,
            inconclusive=tuple(metric.name for metric in result.metrics if metric.verdict == "inconclusive"),
            slowdowns={metric.name: round(metric.slowdown, 4) for metric in result.metrics},
            base={metric.name: metric.base_median for metric in result.metrics},
            rounds={
                each.name: tuple(
                    round(slower, 4) for slower in slowdowns(_SAMPLED[each.name], Pair(each.base, each.head))
                )
                for each in result.metrics
                if each.name in _SAMPLED
            },
            loop_s=min(before_s, loop_s()),
            num_rounds=result.num_rounds,
            duration_s=round(result.duration_s, 1),
            load_average=load_average,
            is_right=injection.metric.name in failed if injection else result.verdict != "fail",
        )

    def _inject(self, kind: Kind, number: int, runs: list[Run]) -> tuple[Injection | None, int]:
        """Have HEAD of the copy be the base with one change."""
        self._git("reset", "--quiet", "--hard", self._base)
        if kind == "same":
            path = self._clone / "handler" / "errors.py"
            path.write_text(path.read_text(encoding="utf-8") + "\n# Nothing.\n", encoding="utf-8")
            self._commit("Change a comment")
            return None, 0
        if kind == "micro":
            injections = micro_injections(_calls())
            injection = injections[number % len(injections)]
            amount = injection.amount(self._micro_cost_us(injection.name), loop_s())
        else:
            injection = END_TO_END[number % len(END_TO_END)]
            amount = injection.amount(*_usual(injection, runs))
        path = self._clone / injection.file
        path.write_text(injection.apply(path.read_text(encoding="utf-8"), amount), encoding="utf-8")
        self._commit(f"Slow down {injection.name}")
        return injection, amount

    def _micro_cost_us(self, path: str) -> float:
        spec = Spec(paths=(path,), core=min(os.sched_getaffinity(0)))
        command = [*OWN_MODULE, "bench.gate.timed"]
        tries = [run_script("micro", command, spec, own_environment(), _TIMEOUT_S) for _ in range(_TRIES)]
        return min(float(answer[path]) for answer in tries) * 1e6

    def _commit(self, message: str) -> None:
        self._git(*_AUTHOR, "commit", "--quiet", "--all", "--message", message)

    def _git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self._clone), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def loop_s() -> float:
    """Seconds of a turn of an empty loop, the shortest of some."""
    shortest_s = float("inf")
    for _ in range(_TRIES):
        began_s = time.perf_counter()
        for _ in range(_LOOPS):
            pass
        shortest_s = min(shortest_s, time.perf_counter() - began_s)
    return shortest_s / _LOOPS


def _usual(injection: Injection, runs: list[Run]) -> tuple[float, float]:
    """The metric's figure and the loop's, in the run in the middle of all that injected nothing."""
    name = injection.metric.name
    same = sorted((run for run in runs if run.kind == "same"), key=lambda run: run.base[name])
    if not same:
        raise SystemExit("runs that inject nothing come first: they say what 10 % are")
    middle = same[len(same) // 2]
    return middle.base[name], statistics.median(run.loop_s for run in same)


def _calls() -> dict[str, int]:
    """Of the injected functions, for one call of a path."""
    num_steps = CALLABLES["scheduler"]()()
    assert isinstance(num_steps, int)
    return {
        "sse": NUM_TOKENS,
        "spool": NUM_RECORDS,
        "scheduler": num_steps,
        "incremental_decode": NUM_ANSWER_TOKENS,
        "refusal": 8,
    }


def _read(path: Path) -> list[Run]:
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Run) for line in path.read_bytes().splitlines()]


if __name__ == "__main__":
    main()
