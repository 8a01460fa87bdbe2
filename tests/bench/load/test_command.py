from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import msgspec
import pytest

import bench.load.arguments
import bench.load.command
from bench.load.raw import read_records
from bench.load.result import LoadResult
from handler.__main__ import main
from handler.settings import Settings
from tests.bench.load.known_server import Behaviour, Served, one_by_one, serving, streaming, whole


class BenchLoad:
    """`pilotlight bench` with this one benchmark."""

    def add_parser(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        benchmarks = subparsers.add_parser("bench").add_subparsers(required=True)
        bench.load.arguments.add_parser(benchmarks)

    def run(self, args: argparse.Namespace, settings: Settings) -> int:
        return bench.load.command.run(args, settings)


def bench_load(*arguments: str) -> int:
    return main(["bench", "load", *arguments], {"bench": BenchLoad()})


async def on_server(behave: Behaviour, *arguments: str) -> int:
    async with serving(behave) as server:
        return await asyncio.to_thread(bench_load, "--url", f"http://127.0.0.1:{server.port}/v1", *arguments)


async def test_a_result(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    out, raw = tmp_path / "result.json", tmp_path / "raw.jsonl"
    arguments = "--arrivals poisson --rate 20 --seconds 2 --output-tokens 5 --ignore-eos --slo ttft:5s --json --seed 3"
    code = await on_server(
        streaming(0.05, 0.005), *arguments.split(), "--out", str(out), "--raw", str(raw), "--api-key", "sk-secret"
    )
    written = capsysbinary.readouterr().out
    result = msgspec.json.decode(written, type=LoadResult)
    assert result == msgspec.json.decode(out.read_bytes(), type=LoadResult)
    assert code == (0 if result.answer.invalid is None else 1)
    assert result.plan.model == "known"
    assert result.answer.failures == {}
    assert result.answer.num_whole == len(read_records(raw)) > 10
    assert result.answer.goodput_per_s == result.answer.offered_per_s
    assert b"sk-secret" not in written


async def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Two of three users have to wait for the one who is served."""
    code = await on_server(
        one_by_one(0.02), "--users", "3", "--seconds", "1", "--output-tokens", "2", "--slo", "e2e:1s"
    )
    shown = capsys.readouterr().out
    assert code == 0, shown
    for word in ("TTFT", "TPOT", "E2E", "within the objectives", "p99", "requests/s"):
        assert word in shown
    assert "dispatch delay" not in shown


async def test_nothing_answered_is_a_finding(capsys: pytest.CaptureFixture[str]) -> None:
    async def refuse(served: Served, writer: asyncio.StreamWriter) -> None:
        del served
        writer.write(whole("429 Too Many Requests", b"later"))

    code = await on_server(refuse, "--arrivals", "constant", "--rate", "10", "--seconds", "1")
    assert code == 1
    shown = capsys.readouterr().out
    assert "failed: 10 refused" in shown
    assert "status 429: later" in shown


@pytest.mark.parametrize(("arguments", "message"), [
    (["--url", "nowhere"], "--url: 'nowhere'"),
    (["--arrivals", "poisson"], "--rate: poisson arrivals need it"),
    (["--arrivals", "poisson", "--rate", "5", "--users", "3"], "--users: are not for poisson arrivals"),
    (["--slo", "fast:1s"], "--slo: 'fast' is none of"),
])  # fmt: skip
def test_bad_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_load(*arguments) == 2
    assert message in capsys.readouterr().err
