"""What is asked of every server over HTTP: closed loops of short prompts, long prompts, and the same ones again."""

from __future__ import annotations

from bench.client import Endpoint, StreamSample
from bench.closed_loop import LoopSample, run_closed_loop
from bench.engine.plan import Plan
from bench.rounds import Measurement
from bench.stats import percentile
from bench.workload import Encoder, long_text, story_prompt

_WARM_TOKENS = 16  # enough that a server which captures graphs after some uses has captured them
_FIRST_TOKENS = 4  # the first token alone may be half a character, which has no text yet
_LONG_PROMPTS = 2
_TIMEOUT_S = 300.0


def measure_server(endpoint: Endpoint, plan: Plan, encoder: Encoder, round_number: int) -> Measurement:
    """All figures of one server in one round.

    Raises:
        BenchError: a request failed or was cut short.
    """
    metrics: dict[str, float] = {}
    details: dict[str, object] = {}
    for count in plan.clients:
        warm = [[story_prompt(plan.seed - 1, count * 10_000 + number)] for number in range(count)]
        run_closed_loop(endpoint, warm, _WARM_TOKENS, _TIMEOUT_S)
        sample = run_closed_loop(endpoint, _prompts(plan, round_number, count), plan.tokens, _TIMEOUT_S)
        metrics |= sample.metrics(count)
        details[f"streams@{count}"] = [_raw(stream) for stream in sample.streams]
    first, again = _long_prompts(endpoint, plan, encoder, round_number)
    metrics["long_ttft_ms"] = percentile([stream.ttft_s for stream in first], 0.5) * 1e3
    metrics["repeated_ttft_ms"] = percentile([stream.ttft_s for stream in again], 0.5) * 1e3
    details |= {"long": [_raw(stream) for stream in first], "repeated": [_raw(stream) for stream in again]}
    return Measurement(metrics=metrics, details=details)


def _prompts(plan: Plan, round_number: int, count: int) -> list[list[str]]:
    """Prompts by client; no two of a round are the same."""
    base = (round_number * 10_000 + count) * 10_000
    each = plan.requests_per_client
    return [[story_prompt(plan.seed, base + client * each + turn) for turn in range(each)] for client in range(count)]


def _long_prompts(
    endpoint: Endpoint, plan: Plan, encoder: Encoder, round_number: int
) -> tuple[list[StreamSample], list[StreamSample]]:
    first, again = [], []
    for number in range(_LONG_PROMPTS):
        prompt = long_text(encoder, plan.prompt_tokens, plan.seed, f"{round_number}-{number}")
        first += list(_alone(endpoint, prompt).streams)
        again += list(_alone(endpoint, prompt).streams)
    return first, again


def _alone(endpoint: Endpoint, prompt: str) -> LoopSample:
    return run_closed_loop(endpoint, [[prompt]], _FIRST_TOKENS, _TIMEOUT_S)


def _raw(stream: StreamSample) -> dict[str, object]:
    return {
        "token_s": [round(time_s - stream.sent_s, 6) for time_s in stream.token_times_s],
        "duration_s": round(stream.ended_s - stream.sent_s, 6),
        "prompt_tokens": stream.prompt_tokens,
        "completion_tokens": stream.completion_tokens,
        "cached_tokens": stream.cached_tokens,
    }
