from __future__ import annotations

from bench.compare.points import LoadPoint
from bench.report.measured import busy_table
from bench.report.numbers import NOTHING
from bench.report.samples import Sample


def point(in_real_time: bool | None) -> LoadPoint:
    return LoadPoint(
        engine="stub",
        workload="chat",
        seconds=1.0,
        requests_per_s=1.0,
        latency_ms=(),
        load_in_real_time=in_real_time,
    )


def test_how_many_loads_went_before_the_database() -> None:
    found = {"pilotlight": (True, False, None, True), "fastapi": (None,)}
    samples = [Sample(stack, 1, point(each)) for stack, loads in found.items() for each in loads]
    table = busy_table(samples)
    column = table.head.index("loads in real time")
    assert [row[column].text for row in table.rows] == ["2 of 3", NOTHING]
