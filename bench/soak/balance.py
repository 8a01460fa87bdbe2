"""The balance sheet of a soak: what was sent against what came of it and what the log says. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from bench.soak.client import Fate, Sent
from bench.soak.samples import Sample, after_warm_up, rss_slope_bytes_per_s

_GROWTH_SHARE = 0.02
_MIB = 2**20
_FIT = {
    Fate.ANSWERED: {"success"},
    Fate.REFUSED: {"error", "rejected"},
    # The server may have been done, or have found the request bad, before it could know that nobody waits.
    Fate.CANCELLED: {"cancelled", "success", "error", "rejected"},
}


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the sheet; `is_good` is None where there is nothing to judge."""

    name: str
    value: str
    is_good: bool | None = None


class Row(msgspec.Struct, frozen=True):
    """Of the request log."""

    request_id: str
    status: str


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """What the function held when the load had ended and it had nothing to do.

    Attributes:
        metrics: gauges by name.
        database_connections: that it may have opened since the first look, and keeps.
        exit_code: of SIGTERM.
    """

    metrics: dict[str, float]
    exit_code: int
    database_connections: int


def balance_sheet(
    sent: Sequence[Sent], rows: Sequence[Row], samples: Sequence[Sample], before: Sample, after: Sample, rest: Rest
) -> list[Line]:
    """The sheet. `before` was taken after a few requests and before the load, `after` at its end, both at rest."""
    return [
        *_requests(sent),
        *_rows(sent, rows),
        *_holdings(samples, before, after, rest.database_connections),
        *_at_rest(rest),
    ]


def is_balanced(sheet: Iterable[Line]) -> bool:
    """Whether no line is bad."""
    return all(line.is_good is not False for line in sheet)


def _requests(sent: Sequence[Sent]) -> list[Line]:
    fates = Counter(request.fate for request in sent)
    problems = Counter(f"{request.kind}: {request.problem}" for request in sent if request.fate is Fate.BROKEN)
    told = "".join(f"; {count} x {problem}" for problem, count in problems.most_common(5))
    return [
        Line(name="requests sent", value=f"{len(sent)}"),
        Line(name="answered whole", value=f"{fates[Fate.ANSWERED]}", is_good=fates[Fate.ANSWERED] > 0),
        Line(name="refused whole", value=f"{fates[Fate.REFUSED]}"),
        Line(name="cancelled by the client", value=f"{fates[Fate.CANCELLED]}"),
        Line(name="neither", value=f"{fates[Fate.BROKEN]}{told}", is_good=not fates[Fate.BROKEN]),
    ]


def _rows(sent: Sequence[Sent], rows: Sequence[Row]) -> list[Line]:
    statuses: dict[str, list[str]] = {}
    for row in rows:
        statuses.setdefault(row.request_id, []).append(row.status)
    known = {request.request_id for request in sent if request.has_head}
    whole = [request for request in sent if request.fate in {Fate.ANSWERED, Fate.REFUSED}]
    with_row = sum(request.request_id in statuses for request in whole)
    repeated = sum(len(each) > 1 for each in statuses.values())
    strange = len(statuses.keys() - known)
    unfit = sum(
        not set(statuses.get(request.request_id, ())) <= _FIT[request.fate]
        for request in sent
        if request.fate is not Fate.BROKEN
    )
    return [
        Line(name="rows", value=f"{len(rows)}"),
        Line(name="whole responses with a row", value=f"{with_row} of {len(whole)}", is_good=with_row == len(whole)),
        Line(name="requests with several rows", value=f"{repeated}", is_good=not repeated),
        Line(name="rows of requests never sent", value=f"{strange}", is_good=not strange),
        Line(name="rows that tell another end than the client", value=f"{unfit}", is_good=not unfit),
    ]


def _holdings(samples: Sequence[Sample], before: Sample, after: Sample, database_connections: int) -> list[Line]:
    settled = after_warm_up(samples)
    slope = rss_slope_bytes_per_s(samples)
    growth = slope * (settled[-1].time_s - settled[0].time_s)
    limit = max(16 * _MIB, _GROWTH_SHARE * settled[0].rss_bytes)
    peak = max(sample.rss_bytes for sample in samples)
    more = after.num_descriptors - before.num_descriptors
    return [
        Line(
            name="memory (RSS) at start, peak, end",
            value=f"{before.rss_bytes / _MIB:.0f}, {peak / _MIB:.0f}, {after.rss_bytes / _MIB:.0f} MiB",
        ),
        Line(
            name="memory's slope after the first quarter",
            value=f"{slope * 3600 / _MIB:+.1f} MiB/h ({growth / _MIB:+.1f} MiB here; {limit / _MIB:.0f} allowed)",
            is_good=growth <= limit,
        ),
        Line(
            name="descriptors at start, peak, end",
            value=f"{before.num_descriptors}, {max(s.num_descriptors for s in samples)}, {after.num_descriptors}",
            is_good=more <= database_connections,
        ),
        Line(
            name="threads at start and end",
            value=f"{before.num_threads}, {after.num_threads}",
        ),
    ]


def _at_rest(rest: Rest) -> list[Line]:
    names = {
        "num_requests_running": "sequences still running",
        "num_requests_waiting": "sequences still waiting",
        "kv_cache_usage_ratio": "share of KV blocks still held",
        "request_log_spooled_records": "records not in PostgreSQL",
        "request_log_rejected_records_total": "records that PostgreSQL refused",
    }
    lines = [
        Line(name=text, value=f"{rest.metrics[name]:g}", is_good=rest.metrics[name] == 0)
        for name, text in names.items()
    ]
    active = rest.metrics["http_requests_active"] - 1  # the one that asked
    return [
        *lines,
        Line(name="HTTP requests still open", value=f"{active:g}", is_good=active == 0),
        Line(name="exit code after SIGTERM", value=f"{rest.exit_code}", is_good=rest.exit_code == 0),
    ]
