"""The command line of `pilotlight bench compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.baselines.plan import STACKS
from bench.counts import count


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench compare`."""
    parser = subparsers.add_parser(
        "compare",
        help="measure the function beside FastAPI, Flask and Django",
        description="Measures the function and FastAPI, Flask and Django over the same engine, schema and request log, "
        "in interleaved rounds: the server on one processor, the load on another. Closed loops say what each does at "
        "most, open loops what its users would wait. The exit code is 1 if a goal is not reached or something failed.",
    )
    parser.add_argument("--quick", action="store_true", help="a smaller form, in less than ten minutes")
    parser.add_argument(
        "--rounds",
        type=count,
        metavar="N",
        help="how often everybody is measured (5; 3 with --quick), and what goals are set for 2 N + 1 times (N)",
    )
    parser.add_argument("--only", action="append", choices=STACKS, help="measure this stack; repeatable (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the order, of arrivals and prompts (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write result.json, report.html, report.md and raw samples below raw/"
    )
