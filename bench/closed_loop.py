"""N clients that each ask, wait for the whole answer, and ask again: the load that the engine benchmark puts on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import uvloop

from bench.client import Endpoint, StreamSample, stream_chat
from bench.stats import percentile


class LoopSample(msgspec.Struct, frozen=True):
    """All answers of one closed loop."""

    streams: tuple[StreamSample, ...]

    @property
    def tokens_per_s(self) -> float:
        """Completion tokens of all clients over the time from the first request to the last byte."""
        began_s = min(stream.sent_s for stream in self.streams)
        ended_s = max(stream.ended_s for stream in self.streams)
        return sum(stream.completion_tokens for stream in self.streams) / (ended_s - began_s)

    def metrics(self, num_clients: int) -> dict[str, float]:
        """The figures of this load by name."""
        ttfts = [stream.ttft_s * 1e3 for stream in self.streams]
        metrics = {
            f"tokens_per_s@{num_clients}": self.tokens_per_s,
            f"ttft_p50_ms@{num_clients}": percentile(ttfts, 0.5),
        }
        gaps = [gap * 1e3 for stream in self.streams for gap in stream.gaps_s]
        if gaps:
            metrics[f"gap_p50_ms@{num_clients}"] = percentile(gaps, 0.5)
            metrics[f"gap_p99_ms@{num_clients}"] = percentile(gaps, 0.99)
            metrics[f"gap_max_ms@{num_clients}"] = max(gaps)
        return metrics


def run_closed_loop(
    endpoint: Endpoint, prompts: Sequence[Sequence[str]], max_tokens: int, timeout_s: float
) -> LoopSample:
    """One client for each sequence of prompts, all beginning at once.

    Raises:
        BenchError: a request failed, or was not answered whole within `timeout_s`.
    """

    async def client(own: Sequence[str]) -> list[StreamSample]:
        return [await stream_chat(endpoint, prompt, max_tokens, timeout_s) for prompt in own]

    async def clients() -> list[StreamSample]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client(own)) for own in prompts]
        return [sample for task in tasks for sample in task.result()]

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            return LoopSample(tuple(runner.run(clients())))
        except ExceptionGroup as group:  # one failure ends the others; the first is the cause
            raise group.exceptions[0] from group
