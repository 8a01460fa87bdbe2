"""The command line of `pilotlight bench soak`."""

from __future__ import annotations

import argparse

from bench.counts import count
from bench.options import add_output


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench soak`."""
    parser = subparsers.add_parser(
        "soak",
        help="load it for a long time while things go wrong, then balance the books",
        description="Runs the function with its own PostgreSQL under mixed load: clients that leave at any moment, bad "
        "requests, more requests than fit, a database that is killed, hangs, refuses and cuts connections. Ends with a "
        "balance sheet: what was sent against what was answered, refused, cancelled and logged; memory, descriptors, "
        "blocks. Exit code 1 where it does not balance.",
    )
    parser.add_argument("--minutes", type=_minutes, default=20.0, help="of load (20)")
    parser.add_argument("--clients", type=count, default=32, help="that ask at the same time (32)")
    parser.add_argument("--seed", type=int, default=0, help="of what is asked, and when things go wrong (0)")
    add_output(parser)


def _minutes(text: str) -> float:
    value = float(text)
    if not 0.1 <= value <= 7 * 24 * 60:
        raise argparse.ArgumentTypeError("must be between 0.1 minutes and a week")
    return value
