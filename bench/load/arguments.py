"""The command line of `pilotlight bench load`."""

from __future__ import annotations

import argparse

from bench.counts import count
from bench.load.options import add_load_options
from bench.options import add_output


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare `bench load`."""
    parser = subparsers.add_parser(
        "load",
        help="put a load on any server that speaks OpenAI's API",
        description="Asks a server for chat completions, in a closed loop of users or as requests arrive on their own, "
        "and says how long they took from their arrival: to the first token, per token, and to the end. The exit code "
        "is 1 if nothing was answered, or if the load and not the server was what was measured.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the server (http://127.0.0.1:8000)")
    parser.add_argument("--model", help="its name in requests (the first that the server lists)")
    parser.add_argument("--api-key", help="sent in each request (OPENAI_API_KEY of the environment)")
    parser.add_argument("--users", type=count, help="of a closed loop (1)")
    parser.add_argument("--seconds", type=count, default=30, help="that are measured (30)")
    parser.add_argument("--processes", type=count, default=1, help="that put the load on together (1)")
    parser.add_argument("--core", type=int, help="run on this processor and no other")
    add_load_options(parser)
    add_output(parser)
