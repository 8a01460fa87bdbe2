"""What a run of the overload benchmark does, and what it should come to."""

from __future__ import annotations

import msgspec

LEAST_THROUGHPUT_SHARE = 0.9
MOST_REFUSAL_MS = 10.0
MOST_GROWTH_SHARE = 0.05
"""Of the memory before the overload: the server's own heap is not counted to the byte."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The same for every contender.

    Attributes:
        rounds: how often each contender is measured.
        seconds: of each load.
        factor: times the sustained rate that is too much.
        tokens: of each answer.
        queue_timeout_s: QUEUE_TIMEOUT of the server.
        batch_size: MAX_BATCH_SIZE of the server.
        seed: of arrivals, prompts and order.
    """

    rounds: int
    seconds: int
    factor: int
    tokens: int
    queue_timeout_s: int
    batch_size: int
    seed: int


def missed_goals(metrics: dict[str, float], plan: Plan) -> list[str]:
    """What a measurement should have come to and did not, in words."""
    load = f"@{plan.factor}x"
    growth_share = metrics["rss_growth_bytes"] / metrics["rss_bytes"]
    goals = (
        (
            metrics[f"throughput_share{load}"] >= LEAST_THROUGHPUT_SHARE,
            f"throughput is {metrics[f'throughput_share{load}']:.2f} of its peak, not {LEAST_THROUGHPUT_SHARE}",
        ),
        (
            metrics[f"ttft_p99_ms{load}"] <= plan.queue_timeout_s * 1e3,
            f"the first token comes after {metrics[f'ttft_p99_ms{load}'] / 1e3:.1f} s (p99), not within QUEUE_TIMEOUT",
        ),
        (
            metrics[f"broken_share{load}"] == 0,
            f"{metrics[f'broken_share{load}']:.3f} of those who were let in got no whole answer",
        ),
        (
            metrics[f"refusal_p99_ms{load}"] <= MOST_REFUSAL_MS,
            f"a refusal takes {metrics[f'refusal_p99_ms{load}']:.1f} ms (p99), not {MOST_REFUSAL_MS:g}",
        ),
        (growth_share <= MOST_GROWTH_SHARE, f"memory grew by {growth_share:.0%}"),
    )
    return [text for is_kept, text in goals if not is_kept]
