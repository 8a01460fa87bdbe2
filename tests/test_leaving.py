"""Clients that leave a server whose steps take their time: where they are when they go, and what they held is free."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from handler.engine.snapshot import Snapshot
from handler.requestlog.record import Record, Status
from tests.faulty_server import BOOT_S, STALL_S, STEP_S, FaultyServer
from tests.server import DEADLINE_S, free_port, until
from tests.slow_client import SlowClient
from tests.storm import storm
from tests.test_boot_wait import spooled

PATH = "/v1/completions"
NUM_LEAVING = int(os.environ.get("NUM_LEAVING", "2000"))
"""`make storm` has 10,000."""


def environ(snapshot: Snapshot, home: Path, **fields: str) -> dict[str, str]:
    return {
        "PILOTLIGHT_HOME": str(home),
        "MODEL_NAME": str(snapshot.directory),
        "MODEL_DEVICE": "cpu",
        "DATABASE_URL": "none",
        "PORT": "0",
        "MAX_BATCH_SIZE": "8",
        "PREFILL_CHUNK_TOKENS": "128",
    } | fields


async def sees(client: httpx.AsyncClient, **metrics: float) -> None:
    """Return when the metrics have these values."""
    wanted = [f"{name} {value}" for name, value in metrics.items()]

    async def look() -> bool | None:
        text = (await client.get("/metrics")).text.replace('{model_name="llama"}', "")
        return all(f"\n{line}\n" in text for line in wanted) or None

    await until(look, f"{wanted}")


async def sees_nothing_left(client: httpx.AsyncClient) -> None:
    await sees(
        client,
        num_requests_running=0.0,
        num_requests_waiting=0.0,
        kv_cache_usage_ratio=0.0,
        http_requests_active=1.0,
    )


def asking(prompt: str = "Once", **fields: Any) -> dict[str, Any]:
    return {"model": "llama", "prompt": prompt, "ignore_eos": True, "max_tokens": 400} | fields


class Server:
    """A server, a client that looks at it, and the rows that it has written once it has stopped."""

    def __init__(self, process: FaultyServer, home: Path) -> None:
        self.process = process
        self._home = home
        self._num_counts = 0

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.process.address, timeout=DEADLINE_S)

    async def count(self) -> dict[str, Any]:
        """What the process holds, once that is no part of any request."""

        async def look() -> dict[str, Any] | None:
            self._num_counts += 1
            count = await asyncio.to_thread(self.process.count, self._num_counts)
            held = count["admitted"] or count["listeners"] or {"Generation", "Choice", "Sequence"} & set(count["types"])
            return None if held else count

        return await until(look, "nothing is held any more")

    async def rows(self) -> dict[str, Record]:
        assert await asyncio.to_thread(self.process.stop) == 0
        assert not any("Traceback" in line for line in self.process.lines)
        return spooled(self._home / "spool")


@pytest.fixture
def slow(tiny_served: Snapshot, tmp_path: Path) -> Iterator[Server]:
    """Takes 50 ms for each step."""
    with FaultyServer(environ(tiny_served, tmp_path, **{STEP_S: "0.05"})) as process:
        yield Server(process, tmp_path)


async def test_leaving_in_each_phase_frees_everything(slow: Server) -> None:
    async with slow.client() as client:
        # In the prefill of a prompt that takes eight steps; no token has come.
        prefill = await SlowClient.connect(slow.process.address)
        await prefill.ask(PATH, "prefill", asking("Once " * 160, max_tokens=100))
        await sees(client, num_requests_running=1.0)
        prefill.leave()
        await sees_nothing_left(client)
        # Of two that run and three that wait, one leaves rudely, one with its half, and one that asked three times.
        streams = [await SlowClient.connect(slow.process.address) for _ in range(3)]
        for number, each in enumerate(streams):
            await each.ask(PATH, f"decode-{number}", asking(stream=True, n=4))
            if number < 2:
                await each.receive(200)
        await sees(client, num_requests_running=8.0, num_requests_waiting=4.0)
        streams[2].leave(rudely=True)
        await sees(client, num_requests_running=8.0, num_requests_waiting=0.0)
        streams[1].leave(rudely=True)
        await sees(client, num_requests_running=4.0)
        streams[0].say_no_more()
        await sees_nothing_left(client)
        streams[0].leave()
        again = await SlowClient.connect(slow.process.address)
        for number in range(3):
            await again.ask(PATH, f"pipelined-{number}", asking())
        await sees(client, num_requests_running=1.0)
        again.leave()
        await sees_nothing_left(client)
    rows = await slow.rows()
    assert {row.status for row in rows.values()} == {Status.CANCELLED}
    assert set(rows) == {"prefill", "decode-0", "decode-1", "decode-2", "pipelined-0"}
    assert (rows["prefill"].completion_tokens, rows["prefill"].http_status) == (0, 499)
    assert (rows["decode-2"].completion_tokens, rows["decode-2"].queue_ms) == (0, None)
    for request_id in ("decode-0", "decode-1"):
        tokens = rows[request_id].completion_tokens
        assert tokens is not None
        assert 4 <= tokens < 400


async def test_leaving_while_the_model_boots(tiny_served: Snapshot, tmp_path: Path) -> None:
    port = free_port()
    process = FaultyServer(environ(tiny_served, tmp_path, PORT=str(port), **{BOOT_S: "1.5"}))
    address = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient(base_url=address, timeout=DEADLINE_S) as client:

            async def listens() -> bool | None:
                try:
                    return (await client.get("/ready")).status_code == 503 or None
                except httpx.ConnectError:
                    return None

            await until(listens, "the server listens")
            leaving = [await SlowClient.connect(address) for _ in range(2)]
            for number, each in enumerate(leaving):
                await each.ask(PATH, f"booting-{number}", asking(stream=number == 0))
            await sees(client, http_requests_active=3.0)
            for each in leaving:
                each.leave()
            await sees(client, http_requests_active=1.0)
            assert (await client.get("/ready")).status_code == 503
            assert (await client.post(PATH, json=asking(max_tokens=1))).status_code == 200
            await sees_nothing_left(client)
            await Server(process, tmp_path).count()
        assert await asyncio.to_thread(process.stop) == 0
    finally:
        process.kill()
    rows = spooled(tmp_path / "spool")
    for number in range(2):
        row = rows[f"booting-{number}"]
        assert (row.status, row.http_status, row.completion_tokens) == (Status.CANCELLED, 499, None)


@pytest.mark.parametrize("how", ["leaves", "stalls", "outlasts"])
async def test_a_client_that_stops_reading(how: str, tiny_served: Snapshot, tmp_path: Path) -> None:
    timeouts = {STALL_S: "1" if how == "stalls" else "60", "REQUEST_TIMEOUT": "3" if how == "outlasts" else "60"}
    with FaultyServer(environ(tiny_served, tmp_path, **timeouts)) as process:
        server = Server(process, tmp_path)
        silent = await SlowClient.connect(process.address)
        async with server.client() as client:
            await silent.flood("silent")
            if how != "stalls":  # all is generated, and waits for the client
                await sees(client, llm_tokens_generated_total=7200.0)
            if how == "leaves":
                silent.leave()
            if how == "stalls":  # it has begun
                await sees(client, http_requests_active=2.0)
            await sees_nothing_left(client)
            await server.count()
        silent.leave()
        row = (await server.rows())["silent"]
    status = Status.TIMEOUT if how == "outlasts" else Status.CANCELLED
    assert (row.status, row.http_status) == (status, 200)
    assert row.completion_tokens == 7200 or (how == "stalls" and row.completion_tokens)


async def test_thousands_who_leave_at_random_leave_nothing(tiny_served: Snapshot, tmp_path: Path) -> None:
    with FaultyServer(environ(tiny_served, tmp_path, MAX_QUEUED_REQUESTS="1000")) as process:
        server = Server(process, tmp_path)
        counts = []
        for first, number in ((0, 500), (500, NUM_LEAVING)):
            await storm(process.address, first, number)
            async with server.client() as client:
                await sees_nothing_left(client)
            counts.append(await server.count())
        before, after = counts
        assert (after["tasks"], after["threads"]) == (before["tasks"], before["threads"])
        assert after["descriptors"] <= before["descriptors"] + 1  # the spool's next file
        # More worker threads may have begun; a leak of one object for each client would be far more.
        assert after["objects"] < before["objects"] + min(1000, NUM_LEAVING // 4)
        rows = await server.rows()
    statuses = Counter(row.status for row in rows.values())
    assert set(statuses) <= {Status.SUCCESS, Status.CANCELLED, Status.REJECTED}
    assert min(statuses[Status.SUCCESS], statuses[Status.CANCELLED]) > NUM_LEAVING // 20
    midway = [row for row in rows.values() if row.status is Status.CANCELLED and row.completion_tokens]
    assert len(midway) > NUM_LEAVING // 20
