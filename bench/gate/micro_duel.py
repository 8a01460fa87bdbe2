"""Micro paths by time, in a process for each side: for machines where instructions cannot be counted."""

from __future__ import annotations

import random

from bench.children import run_script
from bench.gate.blame import SIDES, blaming
from bench.gate.installation import Installation
from bench.gate.metrics import Metric, micro
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.gate.timed import Spec

_TIMEOUT_S = 120.0
_TURNS = 2


def fight(sides: Pair[Installation], plan: Plan, rng: random.Random) -> dict[Metric, Pair[float]]:
    """One round: two processes for each side, of which the quicker one counts.

    Raises:
        SideError: a path failed.
    """
    spec = Spec(paths=tuple(plan.paths), core=plan.server_core)
    seconds: tuple[list[dict[str, float]], list[dict[str, float]]] = ([], [])
    for side in abba(_TURNS, rng):
        with blaming(SIDES[side]):
            command, environ = sides[side].command("bench.gate.timed"), sides[side].environment()
            seconds[side].append(run_script("the micro paths", command, spec, environ, _TIMEOUT_S))
    shortest = [{path: min(each[path] for each in times) for path in plan.paths} for times in seconds]
    return {micro(path, "sampled"): Pair(*(each[path] * 1e6 for each in shortest)) for path in plan.paths}
