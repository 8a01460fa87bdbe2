"""`pilotlight bench gate`: reads the command line, builds both sides, runs the rounds, gives out the verdict.

Exit codes: 0 pass, and inconclusive, which is said and stops nobody; 1 fail; 2 bad usage or a missing program.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from bench.environment import look_around
from bench.gate import log_duel, micro_duel, model_duel, stub_duel
from bench.gate.blame import SIDES
from bench.gate.counting import can_count, count
from bench.gate.fitting import fit
from bench.gate.git import is_modified, repository_at, resolve
from bench.gate.installation import Installation, install
from bench.gate.pair import Pair
from bench.gate.plan import DUELS, Plan
from bench.gate.result import GateResult
from bench.gate.rounds import Duel, Rounds
from bench.gate.show import show
from bench.gate.statistics import MIN_ROUNDS
from bench.log.postgres import running_postgres
from bench.outcome import give_out
from bench.rounds import show_progress
from handler.errors import ConfigurationError
from handler.settings import Settings

_LOOKS, _BUDGET_S = (7, 10, 20), 560
_QUICK_LOOKS, _QUICK_BUDGET_S = (7, 10), 265
"""Seven rounds can let all metrics pass, but not one of several fail: that takes ten."""


def run(args: argparse.Namespace, settings: Settings) -> int:
    """Measure, judge and print.

    Raises:
        ConfigurationError: a program, a revision or a processor is missing.
        BenchError: a revision cannot be built, or the result cannot be written.
    """
    began_s = time.monotonic()
    plan = _plan(args)
    rounds = Rounds(plan, show_progress)
    repository = repository_at(Path.cwd())
    revisions = Pair(args.base, args.head).each(partial(resolve, repository))
    notes = ["uncommitted changes are not measured"] if is_modified(repository) else []
    environment = look_around()
    show_progress(f"building {revisions.base.name} and {revisions.head.name}")
    cache = settings.pilotlight_home / "gate"
    sides = revisions.each(lambda revision: fit(install(repository, revision, cache), plan))
    notes += [
        f"{name} does not fit this harness and is served by its own: where the two differ, that shows as well"
        for name, side in zip(SIDES, sides, strict=True)
        if side.own_harness
    ]
    if "micro" in plan.duels and not can_count():
        notes.append("valgrind is not installed: micro paths are timed, which shows less (apt-get install valgrind)")
    with _duels(sides, plan) as (duels, counts):
        outcome = rounds.run(duels, counts)
    result = GateResult(
        base=revisions.base,
        head=revisions.head,
        verdict=outcome.verdict,
        metrics=outcome.verdicts,
        errors=tuple(f"{problem.duel}: {problem.error}" for problem in outcome.problems),
        notes=tuple(notes),
        num_rounds=outcome.num_rounds,
        duration_s=time.monotonic() - began_s,
        environment=environment,
        arguments=tuple(sys.argv[1:]),
        plan=msgspec.to_builtins(plan),
    )
    give_out(result, args, show)
    return 1 if result.verdict == "fail" else 0


def _plan(args: argparse.Namespace) -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ConfigurationError("bench gate", "needs two processors: one for the server, one for the load")
    looks, budget_s = (_QUICK_LOOKS, _QUICK_BUDGET_S) if args.quick else (_LOOKS, _BUDGET_S)
    if args.rounds is not None:
        if args.rounds < MIN_ROUNDS:
            raise ConfigurationError("bench gate --rounds", f"fewer than {MIN_ROUNDS} rounds cannot show anything")
        looks = (*(look for look in looks if look < args.rounds), args.rounds)
    return Plan(
        duels=tuple(name for name in DUELS if args.only is None or name in args.only),
        looks=looks,
        budget_s=args.budget or budget_s,
        server_core=cores[0],
        load_core=cores[-1],
        seed=args.seed,
    )


@contextlib.contextmanager
def _duels(sides: Pair[Installation], plan: Plan) -> Iterator[tuple[dict[str, Duel], dict[str, Duel]]]:
    """What is run in each round, and what is counted once."""
    duels: dict[str, Duel] = {
        "stub": partial(stub_duel.fight, sides, plan),
        "model": partial(model_duel.fight, sides, plan),
    }
    counts: dict[str, Duel] = {}
    if can_count():
        counts["micro"] = lambda _: count(sides, plan.paths)
    else:
        duels["micro"] = partial(micro_duel.fight, sides, plan)
    with contextlib.ExitStack() as stack:
        if "log" in plan.duels:
            postgres = stack.enter_context(running_postgres())
            duels["log"] = lambda rng: log_duel.fight(sides, plan, rng, postgres)
        chosen = [{name: each[name] for name in plan.duels if name in each} for each in (duels, counts)]
        yield chosen[0], chosen[1]
