"""`python -m tests.fuzz [--inputs N] [--seed S] [TARGET ...]`: bad inputs, and a table of what became of them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from handler.prepare.preparation import prepare
from handler.prepare.progress import NoProgress
from tests.conftest import TEST_HOME
from tests.fuzz.endpoints import endpoints
from tests.fuzz.files import files
from tests.fuzz.runner import Outcome, Target, run_target
from tests.fuzz.wire import wire


def run_all(num_inputs: int, seed: int, names: list[str], defects: Path | None) -> list[Outcome]:
    """Divide the inputs among the targets, all or those named, by their shares."""
    snapshot = prepare("smollm2-135m", TEST_HOME, NoProgress())
    with tempfile.TemporaryDirectory() as directory, endpoints(snapshot) as bodies, wire() as both_ways:
        targets = [
            target for target in [*bodies, *both_ways, *files(Path(directory))] if not names or target.name in names
        ]
        return [_run(target, num_inputs, seed, targets, defects) for target in targets]


def _run(target: Target, num_inputs: int, seed: int, targets: list[Target], defects: Path | None) -> Outcome:
    print(f"{target.name} ...", file=sys.stderr, flush=True)
    share = target.share / sum(target.share for target in targets)
    return run_target(target, max(1, -int(-num_inputs * share // 1)), seed, defects)


def show(outcomes: list[Outcome]) -> None:
    """The table, and the defects."""
    columns = ("target", "inputs", "taken", "kinds of end", "slowest", "per s", "growth", "defects")
    table = Table(*columns)
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            f"{outcome.num_inputs:,}",
            f"{outcome.num_taken:,}",
            f"{len(outcome.kinds):,}",
            f"{outcome.slowest_s * 1000:.0f} ms",
            f"{outcome.num_inputs / max(outcome.duration_s, 1e-9):,.0f}",
            f"{outcome.growth_bytes / (1 << 20):.1f} MiB",
            str(len(outcome.defects)),
        )
    console = Console(width=110)
    console.print(table)
    console.print(f"{sum(outcome.num_inputs for outcome in outcomes):,} inputs")
    for outcome in outcomes:
        for what, data in outcome.defects.items():
            print(f"{outcome.name}: {what}\n  {data[:200]!r}")


def main() -> int:
    """1 if there is a defect."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--defects", type=Path, help="a directory for inputs that are none")
    parser.add_argument("targets", nargs="*")
    args = parser.parse_args()
    outcomes = run_all(args.inputs, args.seed, args.targets, args.defects)
    show(outcomes)
    return 1 if any(outcome.defects for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
