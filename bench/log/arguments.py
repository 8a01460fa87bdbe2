"""The command line of `pilotlight bench log`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.counts import count
from bench.options import add_output, add_rounds


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], contenders: Sequence[str]) -> None:
    """Declare `bench log`."""
    parser = subparsers.add_parser(
        "log",
        help="measure what the request log costs, and how fast it is written",
        description="Measures the function with an engine that costs nothing: without a log, with the spool alone, and "
        "with records on their way to an embedded PostgreSQL; then how many rows a second two processors write, of a "
        "steady flow and of a backlog. In interleaved rounds.",
    )
    add_output(parser)
    add_rounds(parser, 9, contenders)
    parser.add_argument("--seconds", type=count, default=3, help="of each load of a server (3)")
    parser.add_argument("--connections", type=count, default=64, help="that ask for answers (64)")
    parser.add_argument("--records", type=count, default=200_000, help="of the flow, and of the backlog (200000)")
    parser.add_argument("--rate", type=count, default=20_000, help="records a second of the flow (20000)")
