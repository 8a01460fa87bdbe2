"""Prometheus metrics of this process. Names and labels are part of the contract. Event loop only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from handler.boot import BootTimeline
from handler.engine.status import DeviceStatus, EngineState, EngineStats
from handler.instruments import Count, Distributions, Tally
from handler.requestlog.sink import LogSink
from handler.trace import RequestTrace

_REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_MOST_ENDED = 256
"""Requests that wait to be sorted in at most."""
_TOKEN_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 5)

_Ended = tuple[tuple[str, str, str], float, float | None, float | None, float, bool | None]
"""Method, endpoint and status; when it came, was first scheduled, had its first token, and ended; if it was cold."""


class Metrics:
    """Everything that `/metrics` shows. The model has one name there, however requests call it.

    Attributes:
        num_requests_active: HTTP requests being answered.
        num_posted: requests that have ended and were no mere looks.
    """

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._model_name = model_name
        registry, model = self.registry, ["model_name"]
        self._ended: list[_Ended] = []
        registry.register(_Before(self._sort_in))
        self._requests = Tally("http_requests", "HTTP requests.", ["method", "endpoint", "status"], registry)
        self._request_duration = Distributions(
            "http_request_duration_seconds",
            "From first byte in to last byte out.",
            ["method", "endpoint"],
            _REQUEST_BUCKETS_S,
            registry,
        )
        self.num_requests_active = 0
        self.num_posted = 0
        self._tokens = Count("llm_tokens_generated", "Tokens generated.", {"model_name": model_name}, registry)
        self._inference_duration = Distributions(
            "llm_inference_duration_seconds",
            "From first scheduling of a request to its end.",
            model,
            _REQUEST_BUCKETS_S,
            registry,
        ).labels(model_name)
        self._first_token = Distributions(
            "time_to_first_token_seconds", "From arrival.", model, _REQUEST_BUCKETS_S, registry
        ).labels(model_name)
        self._inter_token = Distributions(
            "inter_token_latency_seconds", "Between tokens of one sequence.", model, _TOKEN_BUCKETS_S, registry
        ).labels(model_name)
        self._queue_time = Distributions(
            "queue_time_seconds", "From arrival to first scheduling.", model, _REQUEST_BUCKETS_S, registry
        ).labels(model_name)
        self._cold_starts = Count("cold_start_requests", "Requests that waited for the boot.", {}, registry)
        self._unspooled = Count(
            "request_log_unspooled_records", "Records that the spool did not take: lines of the log.", {}, registry
        )
        ProcessCollector(registry=registry)
        active = Gauge("http_requests_active", "HTTP requests being answered.", registry=registry)
        active.set_function(lambda: self.num_requests_active)

    def watch(
        self,
        stats: Callable[[], EngineStats],
        devices: Callable[[], list[DeviceStatus]],
        sink: LogSink,
        timeline: BootTimeline,
    ) -> None:
        """Show the state of engine, devices, request log and boot as of each scrape."""
        self.registry.register(_StateCollector(stats, sink, timeline, self._model_name))
        self.registry.register(_DeviceCollector(devices, self._model_name))

    def count_rate_limit_failures(self) -> Callable[[], None]:
        """Show how often Redis failed to count, from now on; what is returned counts one."""
        failures = Count("rate_limit_redis_failures", "Requests to Redis that it did not answer.", {}, self.registry)

        def count() -> None:
            failures.value += 1

        return count

    def observe_request(self, trace: RequestTrace, method: str, endpoint: str) -> None:
        """Count a request that has ended."""
        end_s = trace.end_s
        assert end_s is not None, "it is told of when that is known"
        if method == "POST":
            self.num_posted += 1
        self._ended.append(
            (
                (method, endpoint, str(trace.http_status)),
                trace.start_s,
                trace.first_scheduled_s,
                trace.first_token_s,
                end_s,
                trace.cold_start,
            )
        )
        if len(self._ended) >= _MOST_ENDED:
            self._sort_in()

    def _sort_in(self) -> None:
        """Find out where each request belongs that has ended: for many at once that is less work than one by one."""
        ended, self._ended = self._ended, []
        whole_s: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)
        until_begun_s: list[float] = []
        from_begun_s: list[float] = []
        until_token_s: list[float] = []
        for labels, start_s, first_scheduled_s, first_token_s, end_s, cold_start in ended:
            whole_s[labels].append(end_s - start_s)
            if first_scheduled_s is None:
                continue
            if cold_start:
                self._cold_starts.value += 1
            until_begun_s.append(max(0.0, first_scheduled_s - start_s))
            from_begun_s.append(end_s - first_scheduled_s)
            if first_token_s is not None:
                until_token_s.append(first_token_s - start_s)
        for labels, durations_s in whole_s.items():
            self._requests.add(labels, len(durations_s))
            self._request_duration.labels(*labels[:2]).extend(durations_s)
        self._queue_time.extend(until_begun_s)
        self._inference_duration.extend(from_begun_s)
        self._first_token.extend(until_token_s)

    def count_unspooled_record(self) -> None:
        """Count a record that went to the function's own log."""
        self._unspooled.value += 1

    def count_tokens(self, tokens: int) -> None:
        """Count tokens that were generated and not observed one by one."""
        self._tokens.value += max(0, tokens)

    def observe_token_gap(self, tokens: int, gap_s: float | None) -> None:
        """Count tokens of one sequence that came together, `gap_s` after those before them: its share for each."""
        self._tokens.value += tokens
        if gap_s is not None:
            self._inter_token.observe(gap_s / tokens, tokens)


class _Before(Collector):
    """Has something done before those are asked that are registered later: the registry asks one after the other."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def collect(self) -> Iterator[Metric]:
        """Nothing."""
        self._action()
        return iter(())


class _StateCollector(Collector):
    """Reads what others count anyway."""

    def __init__(
        self, stats: Callable[[], EngineStats], sink: LogSink, timeline: BootTimeline, model_name: str
    ) -> None:
        self._stats = stats
        self._sink = sink
        self._timeline = timeline
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        """One family per fact."""
        stats = self._stats()
        used = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        gauges = {
            "num_requests_running": ("Sequences in the running batch.", stats.num_running),
            "num_requests_waiting": ("Sequences waiting for the engine.", stats.num_waiting),
            "kv_cache_usage_ratio": ("Share of KV cache blocks in use.", used),
        }
        counters = {
            "prefix_cache_queries": (
                "Prompt tokens looked up in the prefix cache.",
                stats.prefix_query_tokens,
            ),
            "prefix_cache_hits": ("Prompt tokens found in the prefix cache.", stats.prefix_hit_tokens),
            "spec_drafted_tokens": ("Tokens guessed ahead by prompt lookup.", stats.spec_drafted_tokens),
            "spec_accepted_tokens": ("Guessed tokens that proved right.", stats.spec_accepted_tokens),
            "preemptions": ("Sequences whose blocks were taken for older ones.", stats.num_preemptions),
        }
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            gauge.add_metric([self._model_name], value)
            yield gauge
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(name, text, labels=["model_name"])
            counter.add_metric([self._model_name], value)
            yield counter
        yield GaugeMetricFamily(
            "request_log_spooled_records",
            "Records that PostgreSQL does not have yet.",
            self._sink.spooled_records,
        )
        yield GaugeMetricFamily("request_log_spool_bytes", "What they take on disk.", self._sink.spool_bytes)
        yield CounterMetricFamily("request_log_rows", "Rows written to PostgreSQL.", self._sink.rows_written_total)
        yield CounterMetricFamily(
            "request_log_rejected_records",
            "Records that PostgreSQL refused and that were set aside.",
            self._sink.rejected_total,
        )
        yield GaugeMetricFamily(
            "request_log_connected", "Whether PostgreSQL answered when last asked.", float(self._sink.connected)
        )
        text = "Duration of each part of the boot; several devices boot side by side."
        boot = GaugeMetricFamily("boot_phase_seconds", text, labels=["phase", "device"])
        for phase in self._timeline.phases:
            if phase.end_s is not None:
                boot.add_metric([phase.name, phase.device or ""], phase.end_s - phase.start_s)
        yield boot
        if self._timeline.ready_s is not None:
            text = "From the start of the process until a token could be served."
            yield GaugeMetricFamily("boot_ready_seconds", text, self._timeline.ready_s)


class _DeviceCollector(Collector):
    """What only shows device by device: one that is down, and one that has more than its share."""

    def __init__(self, devices: Callable[[], list[DeviceStatus]], model_name: str) -> None:
        self._devices = devices
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        """One family per fact, one sample per device; none before the devices are known."""
        labels = ["model_name", "device"]
        up = GaugeMetricFamily("device_up", "1 while the device serves.", labels=labels)
        sequences = GaugeMetricFamily("device_sequences", "Sequences that it runs or has waiting.", labels=labels)
        usage = GaugeMetricFamily("device_kv_cache_usage_ratio", "Share of its KV cache blocks in use.", labels=labels)
        for status in self._devices():
            key, stats = [self._model_name, status.device], status.stats
            up.add_metric(key, float(status.state is EngineState.READY))
            sequences.add_metric(key, stats.num_running + stats.num_waiting)
            usage.add_metric(key, stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0)
        yield from (up, sequences, usage)
