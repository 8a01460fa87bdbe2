"""How fast the request log is written: a backlog in the spool, shipped by a process that does nothing else."""

from __future__ import annotations

import os
import random
import tempfile

import msgspec

from bench.children import run_script
from bench.errors import BenchError
from bench.gate.blame import SIDES, blaming
from bench.gate.installation import Installation
from bench.gate.metrics import LOG_ROWS, Metric
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.log.plan import Shipped, ShippingSpec
from bench.log.postgres import Postgres

_TIMEOUT_S = 120.0
_TURNS = 1


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random, postgres: Postgres) -> dict[Metric, Pair[float]]:
    """One round: each ships the same number of records into an empty table.

    Raises:
        SideError: it failed, or there are more or fewer rows than there were records.
    """
    rows, seconds = [0, 0], [0.0, 0.0]
    for side in abba(_TURNS, rng):
        with blaming(SIDES[side]):
            shipped = _ship(sides[side], plan, postgres)
        rows[side] += shipped.rows
        seconds[side] += shipped.seconds
    return {LOG_ROWS: Pair(rows[0] / seconds[0], rows[1] / seconds[1])}


def _ship(side: Installation, plan: Plan, postgres: Postgres) -> Shipped:
    postgres.empty()
    with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        spec = ShippingSpec(
            database=postgres.url,
            postmaster=postgres.postmaster,
            directory=directory,
            cores=tuple(sorted(os.sched_getaffinity(0))),
            records=plan.records,
            rate_per_s=None,
        )
        command = side.command("bench.log.shipping")
        shipped = msgspec.convert(run_script("the shipping", command, spec, side.environment(), _TIMEOUT_S), Shipped)
    rows = postgres.count_rows()
    if rows != plan.records:
        raise BenchError(f"{rows} rows of {plan.records} records")
    return shipped
