"""What users see: cold start, engine steps and memory of the function with the embedded model."""

from __future__ import annotations

import random

from bench.gate.function import Function, both_running
from bench.gate.installation import Installation
from bench.gate.metrics import COLD_START, PEAK_RSS, STEP_1, STEP_16, Metric
from bench.gate.pair import Pair
from bench.gate.plan import Plan
from bench.gate.step_duel import step_ms
from bench.gate.turns import neighbours

_STEPS = {1: STEP_1, 16: STEP_16}


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    """One round: cold starts, then two more processes that have all processors and decode in turn.

    Raises:
        SideError: a server did not start or did not answer.
    """
    figures = {COLD_START: _cold_starts(sides, plan)}
    with both_running(sides) as functions:
        for batch, turns in plan.batches.items():
            figures[_STEPS[batch]] = step_ms(functions, plan, batch, turns, rng)
        figures[PEAK_RSS] = functions.each(Function.peak_rss_bytes)
    return figures


def _cold_starts(sides: Pair[Installation], plan: Plan) -> Pair[float]:
    """Seconds of a start on one processor: both at once, and once more with the processors exchanged.

    A start takes too long for neighbours in time to share the machine's moods, so the two are made at the same time.
    """
    seconds: Pair[list[float]] = Pair([], [])
    for cores in (Pair(plan.server_core, plan.load_core), Pair(plan.load_core, plan.server_core)):
        with both_running(sides, cores) as functions:
            for samples, function in zip(seconds, functions, strict=True):
                samples.append(function.cold_start_s)
    return neighbours(seconds)
