"""`pilotlight bench history`: reads the command line, adds to a history or judges it.

Exit codes: 0 when all is well, 1 when main became slower or something could not be done, 2 for bad usage.
"""

from __future__ import annotations

import argparse
import sys

from rich.table import Table

from bench.history.check import Change, HistoryCheck, check_history
from bench.history.entry import keep, read_history
from bench.history.sources import entry_of
from bench.result import encode_result
from bench.tables import open_console
from handler.errors import ConfigurationError
from handler.settings import Settings


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Do what the command line names.

    Raises:
        BenchError: a file cannot be read or written, or Otava did not do its work.
        ConfigurationError: a number makes no sense.
    """
    del settings
    return _add(args) if args.action == "add" else _check(args)


def _add(args: argparse.Namespace) -> int:
    entry = entry_of(args.results)
    is_new = keep(args.history, entry)
    done = "added" if is_new else "measured again"
    sys.stdout.write(f"{entry.commit[:12]} on {entry.cpu_model}: {done}, {len(entry.metrics)} metrics\n")
    return 0


def _check(args: argparse.Namespace) -> int:
    if not 0.0 <= args.min_change < 100.0:
        raise ConfigurationError("--min-change", f"must be at least 0 and below 100, got {args.min_change:g}")
    result = check_history(
        read_history(args.history), args.otava, num_last=args.last, min_magnitude=args.min_change / 100.0
    )
    if args.json:
        sys.stdout.write(encode_result(result).decode())
    else:
        _show(result)
    return 1 if result.verdict == "fail" else 0


def _show(result: HistoryCheck) -> None:
    console = open_console()
    console.print(
        f"{result.cpu_model}: {result.num_commits} commits, of which the last {result.num_last} were asked about",
        markup=False,
    )
    if result.changes:
        console.print(_table(result.changes))
    console.print("slower" if result.verdict == "fail" else "no regression", markup=False)


def _table(changes: tuple[Change, ...]) -> Table:
    table = Table("metric", "since", "commits", "before", "after", "change", "", box=None, pad_edge=False)
    for change in changes:
        ratio = change.mean_after / change.mean_before - 1.0 if change.mean_before else float("inf")
        table.add_row(
            change.metric,
            change.commit[:12],
            str(change.num_commits),
            f"{change.mean_before:.4g} {change.unit}",
            f"{change.mean_after:.4g} {change.unit}",
            f"{ratio:+.1%}",
            "worse" if change.is_worse else "better",
        )
    return table
