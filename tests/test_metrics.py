from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from handler.engine.snapshot import Snapshot
from handler.metrics import Metrics
from handler.trace import RequestTrace
from tests.asgi import Application

WITH_MODEL = {
    "llm_inference_duration_seconds_count",
    "llm_tokens_generated_total",
    "time_to_first_token_seconds_count",
    "inter_token_latency_seconds_count",
    "queue_time_seconds_count",
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_ratio",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "spec_drafted_tokens_total",
    "spec_accepted_tokens_total",
}
OF_DEVICE = {"device_up": 1.0, "device_sequences": 0.0, "device_kv_cache_usage_ratio": 0.0}
WITHOUT_MODEL = {
    "http_requests_total",
    "http_request_duration_seconds_count",
    "http_requests_active",
    "request_log_spooled_records",
    "request_log_spool_bytes",
    "request_log_unspooled_records_total",
    "request_log_rows_total",
    "request_log_rejected_records_total",
    "request_log_connected",
    "boot_phase_seconds",
    "boot_ready_seconds",
    "cold_start_requests_total",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(application: Application) -> Samples:
    response = await application.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


@pytest.fixture
async def application(tiny_served: Snapshot, tmp_path: Path) -> AsyncIterator[Application]:
    async with Application(tiny_served, tmp_path) as application:
        yield application


async def complete(application: Application, **fields: object) -> int:
    body = {"model": "llama", "prompt": "hi", "max_tokens": 5, "ignore_eos": True} | fields
    return (await application.client.post("/v1/completions", json=body)).status_code


async def test_every_name_of_the_contract_is_there_with_its_label(application: Application) -> None:
    assert await complete(application) == 200
    samples = await scrape(application)
    for name in WITH_MODEL:
        assert value(samples, name, model_name="llama") is not None, name
    for name, expected in OF_DEVICE.items():
        assert value(samples, name, model_name="llama", device="cpu") == expected, name
    assert {name for name, _ in samples} >= WITHOUT_MODEL


async def test_counts_are_right_after_requests(application: Application) -> None:
    for _ in range(2):
        assert await complete(application, n=2) == 200
    assert await complete(application, max_tokens=-1) == 400
    assert await complete(application, model="other") == 404
    assert (await application.client.get("/made-up")).status_code == 404
    await application.idle()
    samples = await scrape(application)
    requests = {"method": "POST", "endpoint": "/v1/completions"}
    assert value(samples, "http_requests_total", status="200", **requests) == 2
    assert value(samples, "http_requests_total", status="400", **requests) == 1
    assert value(samples, "http_requests_total", status="404", **requests) == 1
    assert value(samples, "http_requests_total", status="404", method="GET", endpoint="other") == 1
    assert value(samples, "http_request_duration_seconds_count", **requests) == 4
    model = {"model_name": "llama"}
    assert value(samples, "llm_tokens_generated_total", **model) == 2 * 2 * 5
    assert value(samples, "inter_token_latency_seconds_count", **model) == 2 * 2 * 4
    for name in ("time_to_first_token_seconds", "queue_time_seconds", "llm_inference_duration_seconds"):
        assert value(samples, f"{name}_count", **model) == 2, name
    first_token = value(samples, "time_to_first_token_seconds_sum", **model)
    whole = value(samples, "http_request_duration_seconds_sum", **requests)
    assert first_token is not None
    assert whole is not None
    assert 0 < first_token < whole
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_ratio"):
        assert value(samples, name, **model) == 0, name
    assert value(samples, "http_requests_active") == 1  # the scrape itself
    assert value(samples, "request_log_spooled_records") == 4 + 1  # the boot
    assert value(samples, "cold_start_requests_total") == 0
    # No other model's name becomes a label, whatever requests ask for.
    assert {dict(labels).get("model_name") for _, labels in samples} == {None, "llama"}


def test_tokens_that_come_together_share_their_gap() -> None:
    metrics = Metrics("llama")
    metrics.observe_token_gap(2, None)
    metrics.observe_token_gap(4, 0.2)
    model = {"model_name": "llama"}
    assert metrics.registry.get_sample_value("llm_tokens_generated_total", model) == 6
    assert metrics.registry.get_sample_value("inter_token_latency_seconds_count", model) == 4
    assert metrics.registry.get_sample_value("inter_token_latency_seconds_sum", model) == pytest.approx(0.2)


async def test_the_model_has_one_name_however_requests_call_it(application: Application, tiny_served: Snapshot) -> None:
    assert await complete(application, model=str(tiny_served.directory)) == 200
    assert await complete(application) == 200
    samples = await scrape(application)
    assert value(samples, "llm_tokens_generated_total", model_name="llama") == 10
    assert [record.model_name for record in application.records()] == [str(tiny_served.directory), "llama"]


async def test_a_repeated_prompt_is_found_in_the_prefix_cache(application: Application) -> None:
    prompt = "x" * 600
    for _ in range(2):
        assert await complete(application, prompt=prompt) == 200
    first, second = application.records()
    samples = await scrape(application)
    assert value(samples, "prefix_cache_hits_total", model_name="llama") == second.cached_tokens
    assert first.cached_tokens == 0
    assert second.cached_tokens
    assert second.cached_tokens >= 256
    assert second.prompt_tokens == 600


async def test_phases_of_the_boot_have_durations(application: Application) -> None:
    samples = await scrape(application)
    for phase in ("interpreter", "weights", "warm_up"):
        seconds = value(samples, "boot_phase_seconds", phase=phase, device="")
        assert seconds is not None
        assert seconds > 0
    ready_s = value(samples, "boot_ready_seconds")
    assert ready_s == application.service.timeline.ready_s
    assert ready_s is not None


def test_requests_that_waited_for_the_boot_are_counted() -> None:
    metrics = Metrics("llama")
    for cold_start, first_scheduled_s in ((True, 1.0), (False, 1.0), (True, None)):  # the last one never began
        trace = RequestTrace(request_id="a", endpoint="/v1/completions", cold_start=cold_start)
        trace.first_scheduled_s, trace.end_s = first_scheduled_s, 2.0
        metrics.observe_request(trace, "POST", "/v1/completions")
    assert metrics.registry.get_sample_value("cold_start_requests_total") == 1


async def test_metrics_can_be_switched_off(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path / "off", {"ENABLE_METRICS": "0"}) as application:
        assert (await application.client.get("/metrics")).status_code == 404
