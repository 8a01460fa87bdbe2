"""The command line of `pilotlight bench overload`."""

from __future__ import annotations

import argparse

from bench.counts import count
from bench.options import add_output, add_rounds

CONTENDERS = ("pilotlight", "pilotlight-stub")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench overload`."""
    parser = subparsers.add_parser(
        "overload",
        help="measure what becomes of the function under too much load",
        description="Finds the rate that the function sustains, and offers it that rate and a multiple of it: what is "
        "left of its throughput, how long do those wait who are let in, and how fast are the others refused? With the "
        "model of MODEL_NAME, and with a stub engine. The exit code is 1 if a goal is missed.",
    )
    add_output(parser)
    add_rounds(parser, 1, CONTENDERS)
    parser.add_argument("--seconds", type=count, default=30, help="of each load (30)")
    parser.add_argument("--factor", type=count, default=5, help="times the sustained rate that is too much (5)")
    parser.add_argument("--tokens", type=count, default=64, help="of each answer (64)")
    parser.add_argument("--queue-timeout", type=count, default=10, help="seconds that a request may wait (10)")
