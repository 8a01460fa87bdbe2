"""Who is overloaded: `pilotlight serve` with its model, and the same function with a stub engine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import psutil

from bench.children import OWN_MODULE, ServerChild, free_port, own_environment
from bench.client import Attempt, Endpoint
from bench.errors import BenchError
from bench.overload.load import Load, LoadSample
from bench.overload.plan import Plan
from bench.overload.rss import MemoryWatch
from bench.rounds import Measurement
from bench.stats import percentile

_START_S = 300.0
_PATIENCE_S = 60.0
_WARM_UP_S = 1.0
_CLOSED_SHARE = 0.5
"""Of the seconds of a load, for the closed loop that finds the rate."""
_MAX_MODEL_LEN = "256"
"""Enough for a request, and so few that the KV cache has filled before memory is measured."""


class OverloadedServer:
    """One server, started for each round.

    Args:
        name: as results call it.
        command: that serves, with all settings from the environment.
        model: its name in requests.
        plan: what is asked of it.
        environ: settings that differ from ours.
    """

    def __init__(self, name: str, command: Sequence[str], model: str, plan: Plan, environ: Mapping[str, str]) -> None:
        self.name = name
        self._command = (*OWN_MODULE, *command)
        self._model = model
        self._plan = plan
        self._environ = own_environment() | dict(environ)

    def measure(self, round_number: int) -> Measurement:
        """Find the sustained rate, offer it, and offer too much.

        Raises:
            BenchError: the server did not start, or did not answer at all.
        """
        plan, port = self._plan, free_port()
        with tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
            environ = {"MAX_MODEL_LEN": _MAX_MODEL_LEN, "PILOTLIGHT_HOME": directory} | self._environ
            environ |= {
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "DATABASE_URL": "none",
                "SPOOL_DIR": f"{directory}/spool",
                "MAX_BATCH_SIZE": str(plan.batch_size),
                "QUEUE_TIMEOUT": str(plan.queue_timeout_s),
                "LOG_LEVEL": "info",
            }
            with ServerChild(
                self.name, self._command, environ, port=port, ready_path="/ready", start_s=_START_S
            ) as child:
                return self._measure(child, self._load(port, round_number))

    def _load(self, port: int, round_number: int) -> Load:
        endpoint = Endpoint(
            host="127.0.0.1",
            port=port,
            model=self._model,
            extra={"ignore_eos": True, "stream_options": {"include_usage": True}},
        )
        timeout_s = self._plan.queue_timeout_s + _PATIENCE_S
        seed = self._plan.seed * 1000 + round_number
        return Load(endpoint=endpoint, tokens=self._plan.tokens, timeout_s=timeout_s, seed=seed)

    def _measure(self, child: ServerChild, load: Load) -> Measurement:
        plan, process = self._plan, psutil.Process(child.pid)
        load.closed(plan.batch_size, _WARM_UP_S)
        closed = load.closed(2 * plan.batch_size, _CLOSED_SHARE * plan.seconds)
        peak_per_s = closed.tokens_per_s
        rate_per_s = peak_per_s / plan.tokens
        metrics = {"peak_tokens_per_s": peak_per_s, "sustained_requests_per_s": rate_per_s}
        before_s = _cpu_s(process)
        sustained = load.open(rate_per_s, plan.seconds)
        metrics |= _figures(sustained, peak_per_s, _cpu_s(process) - before_s, "@1x")
        metrics["rss_bytes"] = process.memory_info().rss
        num_logged = len(_durations_ms(child.log))
        before_s = _cpu_s(process)
        with MemoryWatch(child.pid) as memory:
            offered = load.open(plan.factor * rate_per_s, plan.seconds)
        suffix = f"@{plan.factor}x"
        metrics |= _figures(offered, peak_per_s, _cpu_s(process) - before_s, suffix)
        durations = [ms for status, ms in _durations_ms(child.log)[num_logged:] if status == 429]
        metrics |= _percentiles(f"refusal_server{suffix}", durations)
        # The queue has filled by the middle of the load; from then on nothing should be added.
        middle_s, share_s = plan.seconds / 2, plan.seconds / 4
        metrics[f"rss_bytes{suffix}"] = early_bytes = memory.peak_bytes(middle_s, middle_s + share_s)
        metrics["rss_growth_bytes"] = max(0, memory.peak_bytes(plan.seconds - share_s, plan.seconds) - early_bytes)
        details = {"closed": _raw(closed), "sustained": _raw(sustained), "offered": _raw(offered)}
        return Measurement(metrics=metrics, details=details)


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _figures(load: LoadSample, peak_per_s: float, cpu_s: float, suffix: str) -> dict[str, float]:
    """What one open loop came to, which took the server so much processor time.

    Raises:
        BenchError: nobody got an answer.
    """
    answered = [each.sample for each in load.steady if each.sample is not None]
    refused = [each for each in load.steady if each.status == 429]
    num_let_in = len(load.steady) - len(refused)
    if not answered:
        raise BenchError(f"none of {len(load.steady)} requests got a whole answer")
    ttfts_ms = [sample.ttft_s * 1e3 for sample in answered]
    return {
        f"tokens_per_s{suffix}": load.tokens_per_s,
        f"throughput_share{suffix}": load.tokens_per_s / peak_per_s,
        f"cpu_ms_per_token{suffix}": cpu_s * 1e3 / load.num_tokens,
        **_percentiles(f"ttft{suffix}", ttfts_ms),
        f"broken_share{suffix}": 1 - len(answered) / num_let_in,
        f"refused_share{suffix}": len(refused) / len(load.steady),
        **_percentiles(f"refusal{suffix}", [(each.ended_s - each.sent_s) * 1e3 for each in refused]),
        **_percentiles(f"send_lag{suffix}", [lag_s * 1e3 for lag_s in load.lags_s]),
    }


def _percentiles(name: str, samples_ms: list[float]) -> dict[str, float]:
    """Median and 99th percentile; nothing of no samples."""
    if not samples_ms:
        return {}
    what, at, load = name.partition("@")
    return {f"{what}_p{share}_ms{at}{load}": percentile(samples_ms, share / 100) for share in (50, 99)}


def _durations_ms(log: str) -> list[tuple[int, float]]:
    """Status and time within the server of each request that a log tells of, in order."""
    lines = [msgspec.json.decode(line) for line in log.splitlines() if '"message":"request"' in line]
    return [(line["http_status"], line["duration_ms"]) for line in lines]


def _raw(load: LoadSample) -> dict[str, Any]:
    return {
        "seconds": load.seconds,
        "tokens_per_s": load.tokens_per_s,
        "attempts": [_raw_attempt(each, load.began_s) for each in load.attempts],
    }


def _raw_attempt(attempt: Attempt, began_s: float) -> tuple[float, int, float, float | None, int | None]:
    """When it was sent, its status, duration, time to its first token and Retry-After, in seconds."""
    ttft_s = None if attempt.sample is None else round(attempt.sample.ttft_s, 4)
    sent_s, duration_s = attempt.sent_s - began_s, attempt.ended_s - attempt.sent_s
    return round(sent_s, 4), attempt.status, round(duration_s, 4), ttft_s, attempt.retry_after_s
