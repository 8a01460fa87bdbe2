"""The command line of `pilotlight bench history`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.counts import count
from bench.history.otava import default_otava

LAST_COMMITS = 20
MIN_CHANGE_PERCENT = 1.0


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench history` and what can be done with one."""
    parser = subparsers.add_parser(
        "history",
        help="keep what main measured, and look for the commit that made it slower",
        description="Keeps the figures of main's commits in a file of JSON lines, and looks for change points in them "
        "with Apache Otava (make otava).",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_add(actions)
    _add_check(actions)


def _add_add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "add",
        help="take in a commit's results",
        description="Adds one line for the commit that the results are of. A commit that is there already, measured on "
        "the same processor, has its line replaced.",
    )
    parser.add_argument(
        "results", nargs="+", type=Path, metavar="RESULT", help="JSON of the gate, or of the micro benchmarks"
    )
    _add_history(parser)


def _add_check(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = actions.add_parser(
        "check",
        help="exit with 1 if main became slower among its newest commits",
        description="Looks for change points in what was measured on the processor of the newest commit.",
    )
    _add_history(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--last", type=count, default=LAST_COMMITS, help=f"how many commits at the end are asked about ({LAST_COMMITS})"
    )
    parser.add_argument(
        "--min-change",
        type=float,
        default=MIN_CHANGE_PERCENT,
        metavar="PERCENT",
        help=f"smaller changes of the mean are left out ({MIN_CHANGE_PERCENT:g})",
    )
    parser.add_argument(
        "--otava", type=Path, default=default_otava(), metavar="PATH", help="the program (where make otava puts it)"
    )


def _add_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--history", type=Path, required=True, metavar="FILE", help="the file of JSON lines")
