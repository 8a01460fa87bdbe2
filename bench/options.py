"""What the command lines of the benchmarks have in common."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.counts import count


def add_output(parser: argparse.ArgumentParser) -> None:
    """Declare where the result goes."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file as well")


def add_rounds(parser: argparse.ArgumentParser, rounds: int, contenders: Sequence[str]) -> None:
    """Declare how often who is measured, in an order drawn from a seed."""
    parser.add_argument("--rounds", type=count, default=rounds, help=f"how often everybody is measured ({rounds})")
    parser.add_argument("--only", action="append", choices=contenders, help="measure this one; repeatable (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the order, and of what else is drawn (0)")


def chosen(contenders: Sequence[str], args: argparse.Namespace) -> list[str]:
    """Those that the command line names, all where it names none."""
    return [name for name in contenders if args.only is None or name in args.only]
