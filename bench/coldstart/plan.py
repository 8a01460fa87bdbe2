"""What is asked of everybody, and what it should come to. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.comparison import Comparison
from bench.result import Ratio
from bench.stats import Summary

MOST_HEALTH_S = 0.3
MOST_FIRST_TOKEN_S = 1.2
MOST_OF_FLOOR = 1.5
LEAST_OF_TRANSFORMERS = 5.0

OF_FLOOR = "first token, to the floor"
OF_TRANSFORMERS = "transformers' first token, to ours"

COMPARISONS = (
    Comparison(OF_FLOOR, ("pilotlight", "first_token_s"), ("floor", "weights_read_s")),
    Comparison(OF_TRANSFORMERS, ("transformers", "first_token_s"), ("pilotlight", "first_token_s")),
)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The same for everybody.

    Attributes:
        rounds: starts of each.
        drops_caches: whether nothing of any file is in memory when a start begins.
        prompt: what is asked.
        weights: files that the floor reads.
        seed: of the order.
    """

    rounds: int
    drops_caches: bool
    prompt: str
    weights: tuple[str, ...]
    seed: int


def missed_goals(ours: dict[str, Summary], ratios: Sequence[Ratio], *, has_goals_in_seconds: bool) -> list[str]:
    """What the medians should have come to and did not, in words; goals of what was not measured are not missed.

    Args:
        ours: the function's figures, none where it was not measured.
        ratios: to the others.
        has_goals_in_seconds: whether it is the model and the state of the machine that those are set for.
    """
    missed = []
    limits = {"health_s": MOST_HEALTH_S, "first_token_s": MOST_FIRST_TOKEN_S} if has_goals_in_seconds else {}
    for metric, limit in limits.items():
        if metric in ours and ours[metric].median > limit:
            missed.append(f"{metric} is {ours[metric].median:.2f}, not {limit}")
    if "lost" in ours and ours["lost"].high:
        missed.append("requests were lost while it ended or started")
    for ratio in ratios:
        median = ratio.summary.median
        if ratio.name == OF_FLOOR and median > MOST_OF_FLOOR:
            missed.append(f"{ratio.name}: {median:.2f}, not {MOST_OF_FLOOR}")
        if ratio.name == OF_TRANSFORMERS and median < LEAST_OF_TRANSFORMERS:
            missed.append(f"{ratio.name}: {median:.2f}, not {LEAST_OF_TRANSFORMERS}")
    return missed
