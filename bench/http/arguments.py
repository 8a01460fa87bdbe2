"""The command line of `pilotlight bench http`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from bench.counts import count
from bench.options import add_output, add_rounds


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser], contenders: Sequence[str]) -> None:
    """Declare `bench http`."""
    parser = subparsers.add_parser(
        "http",
        help="measure what the function costs around a model",
        description="Measures the function with an engine that costs nothing, beside a bare ASGI response and beside "
        "FastAPI's StreamingResponse, in interleaved rounds: the server on one processor, the load on another.",
    )
    add_output(parser)
    add_rounds(parser, 5, contenders)
    parser.add_argument("--seconds", type=count, default=5, help="of each load (5)")
    parser.add_argument("--connections", type=count, default=64, help="that ask for whole answers (64)")
    parser.add_argument("--streams", type=count, default=64, help="that ask for streams (64)")
    parser.add_argument("--tokens", type=count, default=256, help="of each streamed answer (256)")
