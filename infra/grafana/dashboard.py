"""Writes the dashboard: `python dashboard.py > pilotlight.json`. A table of panels, and what Grafana wants around it.

The test asks a Prometheus that scrapes a running function for each query, and checks that the file is what this writes.
"""

from __future__ import annotations

import json
import sys
from typing import Any, NamedTuple

_WIDTH = 8
_HEIGHT = 7
_COLUMNS = 24 // _WIDTH
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_RATE = "$__rate_interval"


class Panel(NamedTuple):
    """One chart: queries by what their lines are called."""

    title: str
    unit: str
    queries: dict[str, str]
    description: str = ""


def _quantiles(histogram: str, *quantiles: float) -> dict[str, str]:
    rate = f'sum by (le) (rate({histogram}_bucket{{instance=~"$instance"}}[{_RATE}]))'
    return {f"p{quantile * 100:g}": f"histogram_quantile({quantile}, {rate})" for quantile in quantiles}


def _rate(counter: str, *matchers: str) -> str:
    wanted = ", ".join(['instance=~"$instance"', *matchers])
    return f"rate({counter}{{{wanted}}}[{_RATE}])"


def _sum(gauge: str) -> str:
    return f'sum({gauge}{{instance=~"$instance"}})'


def _each(gauge: str) -> str:
    return f'{gauge}{{instance=~"$instance"}}'


_POST, _FAILED, _REFUSED = 'method="POST"', 'status=~"5.."', 'status=~"429|503|504"'
_POSTED = _rate("http_requests_total", _POST)

ROWS: dict[str, tuple[Panel, ...]] = {
    "What clients see": (
        Panel("Requests", "reqps", {"{{status}}": f"sum by (status) ({_rate('http_requests_total', _POST)})"}),
        Panel("Time to the first token", "s", _quantiles("time_to_first_token_seconds", 0.5, 0.95, 0.99)),
        Panel("Between tokens", "s", _quantiles("inter_token_latency_seconds", 0.5, 0.95, 0.99)),
        Panel("Whole requests", "s", _quantiles("http_request_duration_seconds", 0.5, 0.95, 0.99)),
        Panel(
            "Answered with an error",
            "percentunit",
            {
                "5xx": f"(sum({_rate('http_requests_total', _POST, _FAILED)}) or vector(0)) / sum({_POSTED})",
                "refused": f"(sum({_rate('http_requests_total', _POST, _REFUSED)}) or vector(0)) / sum({_POSTED})",
            },
        ),
        Panel("Wait for the engine", "s", _quantiles("queue_time_seconds", 0.5, 0.95, 0.99)),
    ),
    "Engine": (
        Panel(
            "Tokens generated",
            "short",
            {"{{model_name}} /s": f"sum by (model_name) ({_rate('llm_tokens_generated_total')})"},
        ),
        Panel(
            "Sequences",
            "short",
            {"running": _sum("num_requests_running"), "waiting": _sum("num_requests_waiting")},
        ),
        Panel("Requests being answered", "short", {"{{instance}}": _each("http_requests_active")}),
        Panel("KV cache in use", "percentunit", {"{{instance}} {{device}}": _each("device_kv_cache_usage_ratio")}),
        Panel(
            "Prompt tokens found in the prefix cache",
            "percentunit",
            {"hits": f"sum({_rate('prefix_cache_hits_total')}) / sum({_rate('prefix_cache_queries_total')})"},
        ),
        Panel("Inference", "s", _quantiles("llm_inference_duration_seconds", 0.5, 0.95)),
        Panel(
            "Preemptions",
            "short",
            {"{{instance}} /s": _rate("preemptions_total")},
            "Blocks taken for older sequences: memory is short.",
        ),
        Panel(
            "Guessed tokens",
            "short",
            {
                "guessed /s": f"sum({_rate('spec_drafted_tokens_total')})",
                "right /s": f"sum({_rate('spec_accepted_tokens_total')})",
            },
        ),
        Panel("Devices that serve", "short", {"{{device}}": f"sum by (device) ({_each('device_up')})"}),
    ),
    "Starts": (
        Panel("Instances", "short", {"instances": f"count({_each('process_start_time_seconds')})"}),
        Panel("From start to ready", "s", {"{{instance}}": _each("boot_ready_seconds")}),
        Panel(
            "Parts of the boot", "s", {"{{phase}}": f"max by (phase) ({_each('boot_phase_seconds')})"}, "They overlap."
        ),
        Panel("Requests that waited for a boot", "short", {"requests": _sum("cold_start_requests_total")}),
    ),
    "Request log": (
        Panel("Rows written", "short", {"rows /s": f"sum({_rate('request_log_rows_total')})"}),
        Panel(
            "Records that PostgreSQL does not have yet", "short", {"{{instance}}": _each("request_log_spooled_records")}
        ),
        Panel("Spool on disk", "bytes", {"{{instance}}": _each("request_log_spool_bytes")}),
        Panel(
            "Records not kept",
            "short",
            {
                "refused": _sum("request_log_rejected_records_total"),
                "not spooled": _sum("request_log_unspooled_records_total"),
            },
        ),
        Panel("PostgreSQL answers", "short", {"{{instance}}": _each("request_log_connected")}),
    ),
    "Process": (
        Panel("Memory", "bytes", {"{{instance}}": _each("process_resident_memory_bytes")}),
        Panel("Processors in use", "short", {"{{instance}}": _rate("process_cpu_seconds_total")}),
        Panel("Open files", "short", {"{{instance}}": _each("process_open_fds")}),
    ),
}


def dashboard() -> dict[str, Any]:
    """As Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS.items():
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "gridPos": _place(0, top, 24, 1), "panels": []}
        )
        for index, panel in enumerate(row):
            left, line = index % _COLUMNS * _WIDTH, index // _COLUMNS * _HEIGHT
            panels.append(_chart(panel, _place(left, top + 1 + line, _WIDTH, _HEIGHT)))
        top += 1 + -(-len(row) // _COLUMNS) * _HEIGHT
    for number, each in enumerate(panels, 1):
        each["id"] = number
    return {
        "uid": "pilotlight",
        "title": "Pilotlight",
        "tags": ["llm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_datasource(), _instances()]},
        "panels": panels,
    }


def _chart(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": _DATASOURCE, "expr": query, "legendFormat": name}
            for index, (name, query) in enumerate(panel.queries.items())
        ],
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": "label_values(http_requests_active, instance)",
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
        "allValue": ".*",
    }


if __name__ == "__main__":
    json.dump(dashboard(), sys.stdout, indent=2)
    print()
