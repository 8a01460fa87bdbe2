"""`pilotlight bench ...`, found by `pilotlight` through the entry point group `pilotlight.commands`."""

from __future__ import annotations

import argparse
import importlib
import sys
from functools import partial

import bench.coldstart.arguments
import bench.compare.arguments
import bench.engine.arguments
import bench.gate.arguments
import bench.history.arguments
import bench.http.arguments
import bench.load.arguments
import bench.log.arguments
import bench.overload.arguments
import bench.report.arguments
import bench.soak.arguments
from bench.children import ended_by_sigterm
from bench.errors import BenchError
from bench.http.contenders import CANDIDATES
from bench.log.contenders import SERVERS, SHIPPERS
from handler.settings import Settings


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the subcommand and its benchmarks."""
    parser = subparsers.add_parser("bench", help="measure it, beside others", description="The benchmark harness.")
    benchmarks = parser.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    bench.compare.arguments.add_parser(benchmarks)
    bench.load.arguments.add_parser(benchmarks)
    bench.gate.arguments.add_parser(benchmarks)
    bench.report.arguments.add_parser(benchmarks)
    bench.history.arguments.add_parser(benchmarks)
    bench.coldstart.arguments.add_parser(benchmarks)
    bench.engine.arguments.add_parser(benchmarks)
    bench.http.arguments.add_parser(benchmarks, list(CANDIDATES))
    bench.soak.arguments.add_parser(benchmarks)
    bench.overload.arguments.add_parser(benchmarks)
    bench.log.arguments.add_parser(benchmarks, [*SERVERS, *SHIPPERS])


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Run one benchmark; 1 if something could not be measured.

    Only what it needs is imported: what another one compares with may not be installed.
    """
    command = importlib.import_module(f"bench.{args.benchmark}.command")
    start = command.run
    if args.benchmark == "compare":  # the report knows the comparison, so the comparison must not know the report
        start = partial(start, write_report=importlib.import_module("bench.report.writing").write_report)
    try:
        with ended_by_sigterm():
            code: int = start(args, settings)
    except BenchError as error:
        sys.stderr.write(f"pilotlight bench: {error}\n")
        return 1
    return code
