"""`pilotlight bench log`: reads the command line, runs the rounds, gives out the result.

Exit codes: 0 when everything asked for was measured, 1 when something failed, 2 for bad usage or a missing program.
"""

from __future__ import annotations

import argparse
import os
import random

from bench.environment import look_around
from bench.http.wrk import find_wrk
from bench.log.contenders import COMPARISONS, SERVERS, SHIPPERS, running_contenders
from bench.log.plan import Plan
from bench.log.postgres import running_postgres
from bench.options import chosen
from bench.outcome import give_out, result_of
from bench.rounds import run_rounds, show_progress
from bench.tables import show
from handler.errors import ConfigurationError
from handler.settings import Settings


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure and print.

    Raises:
        ConfigurationError: a program or a processor is missing, or the flow is too short to be measured.
        BenchError: a server did not start, or the result cannot be written.
    """
    names = chosen((*SERVERS, *SHIPPERS), args)
    plan = _plan(args)
    if any(name in SERVERS for name in names):
        find_wrk()
    if "flow" in names and plan.records < 2 * plan.rate_per_s:
        raise ConfigurationError("bench log", "--records must be two seconds of --rate at least")
    environment = look_around()
    with running_postgres() as postgres, running_contenders(names, plan, postgres) as contenders:
        rounds, failures = run_rounds(contenders, plan.rounds, random.Random(args.seed), show_progress)  # noqa: S311  (an order)
    result = result_of("log", environment, settings, plan, rounds, failures, comparisons=COMPARISONS)
    give_out(result, args, show)
    return 1 if failures else 0


def _plan(args: argparse.Namespace) -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ConfigurationError("bench log", "needs two processors: one for the server, one for all the rest")
    return Plan(
        rounds=args.rounds,
        seconds=args.seconds,
        connections=args.connections,
        records=args.records,
        rate_per_s=args.rate,
        server_core=cores[0],
        load_core=cores[-1],
        seed=args.seed,
    )
