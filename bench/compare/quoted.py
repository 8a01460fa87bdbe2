"""The figures that are quoted for FastAPI, Flask and Django, to be shown beside measured ones. Never mixed with them.

The hardware behind them is not stated, nor are versions, servers and settings: they say what a reader may have seen
before, not what is to be reached here. Pure data.
"""

from __future__ import annotations

import msgspec

from bench.baselines.plan import Stack


class QuotedTable(msgspec.Struct, frozen=True, kw_only=True):
    """One table.

    Attributes:
        title: in words, with the unit.
        columns: heading and metric of each, the metric as `bench compare` names what it measures instead.
        unit_bytes: bytes of the unit in which memory is quoted; None where the figure is in the metric's own unit.
        rows: figures of each framework, column by column.
    """

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: dict[Stack, tuple[float, ...]]
    unit_bytes: int | None = None


QUOTED: tuple[QuotedTable, ...] = (
    QuotedTable(
        title="requests per second",
        columns=(
            ("JSON", "json_requests_per_s@64"),
            ("database", "database_requests_per_s@64"),
            ("template", "template_requests_per_s@64"),
        ),
        rows={
            "fastapi": (38_000, 18_000, 12_000),
            "flask": (28_000, 12_000, 8_000),
            "django": (22_000, 10_000, 6_000),
        },
    ),
    QuotedTable(
        title="99th percentile of the latency, ms",
        columns=(
            ("100 connections", "chat_p99_ms@100"),
            ("500", "chat_p99_ms@500"),
            ("1000", "chat_p99_ms@1000"),
        ),
        rows={
            "fastapi": (12, 35, 68),
            "flask": (18, 85, 220),
            "django": (25, 120, 380),
        },
    ),
    QuotedTable(
        title="memory, MB",
        columns=(
            ("at rest", "rss_bytes"),
            ("with database", "rss_database_bytes"),
            ("1000 connections", "rss_bytes@1000"),
        ),
        rows={
            "fastapi": (45, 65, 120),
            "flask": (40, 75, 200),
            "django": (85, 120, 350),
        },
        unit_bytes=1_000_000,
    ),
)
