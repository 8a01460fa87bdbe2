"""The command line of `pilotlight bench gate`."""

from __future__ import annotations

import argparse

from bench.counts import count
from bench.gate.plan import DUELS
from bench.options import add_output


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench gate`."""
    parser = subparsers.add_parser(
        "gate",
        help="say whether a revision is slower than another",
        description="Builds two git revisions side by side, measures both in paired rounds, and says whether the "
        "second is slower: pass, fail (exit code 1), or inconclusive where the budget did not do for either.",
    )
    parser.add_argument("base", metavar="BASE", help="what is compared with, such as main")
    parser.add_argument("head", metavar="HEAD", nargs="?", default="HEAD", help="what is compared (HEAD)")
    add_output(parser)
    parser.add_argument("--quick", action="store_true", help="end within five minutes: fewer rounds at most")
    parser.add_argument("--rounds", type=count, help="at most (20; with --quick 10)")
    parser.add_argument("--budget", type=count, metavar="SECONDS", help="after which no round begins (560; quick: 265)")
    parser.add_argument("--only", action="append", choices=DUELS, help="measure this; repeatable (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (0)")
