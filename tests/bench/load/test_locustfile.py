"""Locust itself with our locustfile: without and with its web page, alone and with workers."""

from __future__ import annotations

import asyncio
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import bench.load
from bench.children import ServerChild, free_port, own_environment
from bench.load.raw import read_records
from tests.bench.load.known_server import serving, streaming

LOCUSTFILE = Path(bench.load.__file__).parent / "locustfile.py"
COMMAND = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--stop-timeout", "10"]
PATIENCE_S = 60.0


async def locust(port: int, *arguments: str) -> tuple[int | None, str]:
    """Exit code and what it wrote."""
    command = [*COMMAND, "--host", f"http://127.0.0.1:{port}", "--headless", "--only-summary", *arguments]
    process = await asyncio.create_subprocess_exec(
        *command, env=own_environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    written, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode, written.decode()


async def entries(port: int, directory: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """Locust's statistics by name."""
    code, written = await locust(port, "--json-file", str(directory / "stats"), *arguments)
    assert code == 0, written
    return {entry["name"]: entry for entry in json.loads((directory / "stats.json").read_text())}


async def test_users_of_a_closed_loop(tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    arguments = ["-u", "2", "-r", "2", "-t", "2s", "--output-tokens", "5", "--ignore-eos", "--raw", str(raw)]
    async with serving(streaming(0.02, 0.005)) as server:
        stats = await entries(server.port, tmp_path, *arguments)
    records = read_records(raw)
    assert set(stats) == {"E2E", "TTFT", "TPOT", "ITL"}
    assert stats["E2E"]["num_requests"] == stats["TTFT"]["num_requests"] == len(records) == len(server.served)
    assert stats["ITL"]["num_requests"] == 4 * len(records)
    assert 20.0 <= stats["TTFT"]["total_response_time"] / len(records) < stats["E2E"]["total_response_time"]
    assert {record.failure for record in records} == {None}
    assert server.served[0].body["model"] == "known"  # the server was asked which it has
    assert server.served[0].body["ignore_eos"] is True


async def test_workers_share_the_arrivals_of_an_open_loop(tmp_path: Path) -> None:
    arguments = ["-t", "3s", "--processes", "2", "--arrivals", "constant", "--rate", "20", "--model", "m"]
    arguments += ["--slo", "e2e:10s", "--raw", str(tmp_path / "raw.jsonl"), "--api-key", "sk-1"]
    async with serving(streaming(0.01, 0.0)) as server:
        stats = await entries(server.port, tmp_path, *arguments)
    numbers = [[record.number for record in read_records(tmp_path / f"raw.{index}.jsonl")] for index in (0, 1)]
    for index, own in enumerate(numbers):
        assert sorted(own) == list(range(index, index + 2 * len(own), 2))
        assert len(own) > 5
    num_requests = sum(map(len, numbers))
    assert num_requests == len(server.served) <= 3 * 20 - 20  # a second passes until all begin
    # The master does not wait long for the last reports of its workers: what arrived late may be missing.
    reported = {name: stats[name]["num_requests"] for name in ("E2E", "dispatch delay", "goodput")}
    assert len(set(reported.values())) == 1
    assert 0 < reported["E2E"] <= num_requests
    assert server.keys == {"Bearer sk-1"}


async def test_failures_are_locusts_failures_and_its_exit_code(tmp_path: Path) -> None:
    port = free_port()
    code, written = await locust(port, "-t", "2s", "--arrivals", "poisson", "--rate", "10", "--model", "m")
    assert code == 1
    assert "MissError" in written
    assert "connection: ConnectionRefusedError" in written


async def test_options_that_cannot_be_end_it() -> None:
    code, written = await locust(1, "--arrivals", "poisson")
    assert code == 2
    assert "rate: poisson arrivals need it" in written


async def test_the_web_page_has_our_options_and_runs_them() -> None:
    async with serving(streaming(0.01, 0.0)) as server:
        await asyncio.to_thread(_swarm, server.port)
        assert {each.body["max_tokens"] for each in server.served} == {3}


def _swarm(server_port: int) -> None:
    port = free_port()
    command = [*COMMAND, "--web-host", "127.0.0.1", "--web-port", str(port)]
    with ServerChild("locust", command, own_environment(), port=port, ready_path="/", start_s=PATIENCE_S):
        page = _get(port, "/")
        assert all(name in page for name in ("burstiness", "trace_format", "prefix_share"))
        form = {
            "user_count": "1",
            "spawn_rate": "1",
            "host": f"http://127.0.0.1:{server_port}",
            "model": "m",
            "arrivals": "gamma",
            "rate": "30",
            "burstiness": "0.5",
            "output_tokens": "3",
        }
        started = json.loads(_get(port, "/swarm", urllib.parse.urlencode(form).encode()))
        assert started["success"], started
        deadline_s = time.monotonic() + PATIENCE_S
        names: dict[str, int] = {}
        while names.get("TTFT", 0) < 5:
            assert time.monotonic() < deadline_s, names
            stats = json.loads(_get(port, "/stats/requests"))
            names = {entry["name"]: entry["num_requests"] for entry in stats["stats"]}
            assert stats["fail_ratio"] == 0.0
        assert json.loads(_get(port, "/stop", b""))["success"]


def _get(port: int, path: str, data: bytes | None = None) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", data, timeout=PATIENCE_S) as response:
        return str(response.read().decode())
