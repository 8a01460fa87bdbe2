"""The harness against servers that are known: what it says of them must be so."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.arrivals import Closed, Constant, Poisson, Window, arrival_times
from bench.distribution import at
from bench.record import RequestRecord
from bench.slo import parse_objectives
from bench.stats import percentile
from tests.bench.load.known_server import Behaviour, Served, one_by_one, serving, streaming
from tests.bench.load.loads import loaded, spec

_SHARES = (0.5, 0.99)
_WITHIN = 0.05


def offset_s(records: Sequence[RequestRecord], served: Sequence[Served]) -> float:
    """When the load began, on the server's clock: no request came before it was sent, and the quickest hardly later."""
    received = {each.number: each.received_s for each in served}
    return min(received[record.number] - record.sent_s for record in records)


def assert_same(measured_s: Sequence[float], true_s: Sequence[float]) -> None:
    for share in _SHARES:
        assert percentile(measured_s, share) == pytest.approx(percentile(true_s, share), rel=_WITHIN)


async def test_streams_take_as_long_as_the_server_says(tmp_path: Path) -> None:
    async with serving(streaming(ttft_s=0.2, gap_s=0.05)) as server:
        answer, records = await loaded(spec(server.port, Poisson(rate_per_s=25.0), 4.0, tokens=8), tmp_path)
    assert answer.failures == {}
    assert answer.num_whole == len(server.served) == len(records)
    served = {each.number: each for each in server.served}
    began_s = offset_s(records, server.served)
    firsts = [served[record.number].written_s[0] - began_s - record.scheduled_s for record in records]
    lasts = [served[record.number].written_s[-1] - began_s - record.scheduled_s for record in records]
    assert_same([record.ttft_s or 0.0 for record in records], firsts)
    assert_same([record.e2e_s for record in records], lasts)
    per_token = [(last - first) / 7 for first, last in zip(firsts, lasts, strict=True)]
    assert_same([record.tpot_s or 0.0 for record in records], per_token)
    # What the answer says is what the records say, and the load did not invent time: a stream takes what it has to.
    assert answer.ttft_ms is not None
    assert at(answer.ttft_ms, 0.5) == pytest.approx(percentile(firsts, 0.5) * 1e3, rel=_WITHIN)
    assert min(record.ttft_s or 0.0 for record in records) >= 0.2
    assert min(record.tpot_s or 0.0 for record in records) >= 0.05 * 0.9


def lindley(arrivals_s: Sequence[float], services_s: Sequence[float]) -> list[float]:
    """Time in the system of each: its own service, and the wait for what the ones before it left (Lindley 1952)."""
    waits, wait = [], 0.0
    for index, service_s in enumerate(services_s):
        if index:
            wait = max(0.0, wait + services_s[index - 1] - (arrivals_s[index] - arrivals_s[index - 1]))
        waits.append(wait + service_s)
    return waits


async def test_a_queue_is_as_long_as_the_recursion_says(tmp_path: Path) -> None:
    """M/D/1 at four fifths of what the server can do: the seed says when each comes, and so how long it has to wait."""
    arrivals = Poisson(rate_per_s=16.0)
    async with serving(one_by_one(0.05)) as server:
        load = spec(server.port, arrivals, 6.0, seed=5)
        answer, records = await loaded(load, tmp_path)
    assert answer.failures == {}
    scheduled = list(arrival_times(arrivals, load.window, 5))
    assert [record.scheduled_s for record in records] == pytest.approx(scheduled, abs=1e-6)
    served = {each.number: each for each in server.served}
    began_s = offset_s(records, server.served)
    # A busy machine sends late and serves slowly: the recursion takes both as they were.
    received = [served[record.number].received_s - began_s for record in records]
    services = [served[record.number].ended_s - served[record.number].began_s for record in records]
    late = [there_s - due_s for there_s, due_s in zip(received, scheduled, strict=True)]
    in_system = [sum(each) for each in zip(late, lindley(received, services), strict=True)]
    assert_same([record.e2e_s for record in records], in_system)
    if answer.invalid is None:
        assert_same([record.e2e_s for record in records], lindley(scheduled, services))
    assert answer.latency_ms is not None
    assert at(answer.latency_ms, 0.99) > 3 * 50.0  # there was a queue to see


def stalling(at_s: float, stall_s: float) -> Behaviour:
    """Quick, but for one stall, in which everybody waits."""
    behave = streaming(0.005, 0.0)
    began_s: list[float] = []

    async def stalled(served: Served, writer: asyncio.StreamWriter) -> None:
        began_s.append(time.monotonic())
        since_s = began_s[-1] - began_s[0]
        if at_s <= since_s < at_s + stall_s:
            await asyncio.sleep(at_s + stall_s - since_s)
        await behave(served, writer)

    return stalled


async def test_an_open_loop_shows_the_stall_that_a_closed_one_hides(tmp_path: Path) -> None:
    """Coordinated omission: a user who waits asks nobody else, and so the stall is one sample among many."""
    async with serving(stalling(1.0, 1.0)) as server:
        closed, _ = await loaded(spec(server.port, Closed(users=1), 4.0, tokens=1), tmp_path)
    async with serving(stalling(1.0, 1.0)) as server:
        open_loop, records = await loaded(spec(server.port, Constant(rate_per_s=50.0), 4.0, tokens=1), tmp_path)
    assert closed.latency_ms is not None
    assert open_loop.latency_ms is not None
    assert closed.num_requests > 100
    assert at(closed.latency_ms, 1.0) > 900.0
    assert at(closed.latency_ms, 0.99) < 500.0
    assert at(open_loop.latency_ms, 0.99) > 900.0
    # A quarter of the arrivals fell into the stall, and waited for what was left of it.
    assert sum(record.e2e_s > 0.1 for record in records) / len(records) == pytest.approx(0.225, abs=0.05)
    assert [second.at_s for second in open_loop.timeline[:4]] == [0, 1, 2, 3]


async def test_goodput_counts_what_was_in_time(tmp_path: Path) -> None:
    """At twice what the server can do, only the first ones are."""
    async with serving(one_by_one(0.05)) as server:
        load = spec(server.port, Constant(rate_per_s=40.0), 2.0, objectives=parse_objectives("ttft:500ms"))
        answer, records = await loaded(load, tmp_path)
    assert answer.num_whole == 80
    # Each waits 25 ms longer than the one before it.
    in_time = sum((record.ttft_s or 0.0) <= 0.5 for record in records)
    assert answer.goodput_per_s == in_time / 2.0
    assert 5 <= in_time <= 20
    # It does half of what is asked of it, though all is answered in the end.
    assert answer.offered_per_s == 40.0
    assert answer.requests_per_s <= 20.0


async def test_what_arrives_in_warm_up_and_cool_down_does_not_count(tmp_path: Path) -> None:
    window = Window(warm_up_s=0.5, duration_s=1.0, cool_down_s=0.5)
    async with serving(streaming(0.02, 0.0)) as server:
        answer, records = await loaded(spec(server.port, Constant(rate_per_s=20.0), 1.0, window=window), tmp_path)
    assert len(records) == len(server.served) == 40
    assert answer.num_requests == answer.num_whole == 20
    assert answer.offered_per_s == 20.0
