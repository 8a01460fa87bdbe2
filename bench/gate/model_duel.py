"""What users see: cold start, engine steps and memory of the function with the embedded model."""

from __future__ import annotations

import random
import statistics

from bench.closed_loop import run_closed_loop
from bench.gate.blame import SIDES, blaming
from bench.gate.function import ANSWER_S, Function, both_running
from bench.gate.installation import Installation
from bench.gate.metrics import COLD_START, PEAK_RSS, STEP_1, STEP_16, Metric
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.gate.turns import neighbours
from bench.workload import story_prompt

_STEPS = {1: STEP_1, 16: STEP_16}


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    """One round: cold starts, then two more processes that have all processors and decode in turn.

    Raises:
        SideError: a server did not start or did not answer.
    """
    figures = {COLD_START: _cold_starts(sides, plan)}
    with both_running(sides) as functions:
        for batch, turns in plan.batches.items():
            steps_ms: Pair[list[float]] = Pair([], [])
            for name, function in zip(SIDES, functions, strict=True):
                with blaming(name):
                    _step_ms(function, plan, batch)
            for side in abba(turns, rng):
                with blaming(SIDES[side]):
                    steps_ms[side].append(_step_ms(functions[side], plan, batch))
            figures[_STEPS[batch]] = neighbours(steps_ms)
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


def _step_ms(function: Function, plan: Plan, batch: int) -> float:
    """The time from one token to the next where `batch` streams run together: a step, where nobody else runs.

    The median, because in a few steps prompts are computed as well.
    """
    prompts = [[story_prompt(plan.seed, number)] for number in range(batch)]
    streams = run_closed_loop(function.endpoint, prompts, plan.batch_tokens, ANSWER_S).streams
    return statistics.median(gap_s for stream in streams for gap_s in stream.gaps_s) * 1e3
