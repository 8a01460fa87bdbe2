"""The command line of `pilotlight bench coldstart`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.counts import count
from bench.options import add_output

CONTENDERS = ("pilotlight", "floor", "transformers", "peer")
SCALE_TO_ZERO = "scale-to-zero"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench coldstart`."""
    parser = subparsers.add_parser(
        "coldstart",
        help="measure starts, from exec to the first token",
        description="Starts the function with the model of MODEL_NAME over and over, and asks it for a token as soon "
        "as it answers; beside it the floor (Python that imports torch and reads the weights), and whoever else is "
        "named. The exit code is 1 if a goal is missed.",
    )
    add_output(parser)
    parser.add_argument("--runs", type=count, default=10, help="starts of everybody (10)")
    parser.add_argument("--only", action="append", choices=CONTENDERS, help="start this one; repeatable (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (0)")
    parser.add_argument(
        "--drop-caches", action="store_true", help="forget the page cache before each start, as root: a machine's first"
    )
    parser.add_argument(
        "--scale-to-zero",
        action="store_true",
        help="in place of all that: hold the socket, let the function end when nobody asks, and start it for who does",
    )
    parser.add_argument("--transformers", action="store_true", help="start `transformers serve` as well")
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), help="interpreter that has it")
    parser.add_argument("--peer-command", metavar="LINE", help="start this as well; {port} is where it is to listen")
    parser.add_argument("--peer-ready", default="/health", metavar="PATH", help="that it answers with 200 (/health)")
    parser.add_argument("--peer-model", default="default", metavar="NAME", help="the model to ask it for (default)")
