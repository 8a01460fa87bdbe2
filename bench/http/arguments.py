"""The command line of `pilotlight bench http`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.counts import count


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], contenders: Sequence[str]) -> None:
    """Declare `bench http`."""
    parser = subparsers.add_parser(
        "http",
        help="measure what the function costs around a model",
        description="Measures the function with an engine that costs nothing, beside a bare ASGI response and beside "
        "FastAPI's StreamingResponse, in interleaved rounds: the server on one processor, the load on another.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON to a file as well")
    parser.add_argument("--rounds", type=count, default=5, help="how often everybody is measured (5)")
    parser.add_argument("--seconds", type=count, default=5, help="of each load (5)")
    parser.add_argument("--connections", type=count, default=64, help="that ask for whole answers (64)")
    parser.add_argument("--streams", type=count, default=64, help="that ask for streams (64)")
    parser.add_argument("--tokens", type=count, default=256, help="of each streamed answer (256)")
    parser.add_argument("--only", action="append", choices=contenders, help="measure this one; repeatable (all)")
    parser.add_argument("--seed", type=int, default=0, help="of the order (0)")
