"""`pilotlight bench ...`, found by `pilotlight` through the entry point group `pilotlight.commands`."""

from __future__ import annotations

import argparse
import sys

import bench.engine.arguments
import bench.engine.command
import bench.http.arguments
import bench.http.command
import bench.log.arguments
import bench.log.command
import bench.overload.arguments
import bench.overload.command
import bench.soak.arguments
import bench.soak.command
from bench.children import ended_by_sigterm
from bench.errors import BenchError
from bench.http.contenders import CANDIDATES
from bench.log.contenders import SERVERS, SHIPPERS
from handler.settings import Settings

_COMMANDS = {
    "engine": bench.engine.command.run,
    "http": bench.http.command.run,
    "log": bench.log.command.run,
    "soak": bench.soak.command.run,
    "overload": bench.overload.command.run,
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand and its benchmarks."""
    parser = subparsers.add_parser("bench", help="measure it, beside others", description="The benchmark harness.")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    bench.engine.arguments.add_parser(benchmarks)
    bench.http.arguments.add_parser(benchmarks, list(CANDIDATES))
    bench.soak.arguments.add_parser(benchmarks)
    bench.overload.arguments.add_parser(benchmarks)
    bench.log.arguments.add_parser(benchmarks, [*SERVERS, *SHIPPERS])


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run one benchmark; 1 if something could not be measured."""
    try:
        with ended_by_sigterm():
            return _COMMANDS[args.benchmark](args, settings)
    except BenchError as error:
        sys.stderr.write(f"pilotlight bench: {error}\n")
        return 1
