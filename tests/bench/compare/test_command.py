"""Two stacks on real sockets with a real database, wrk, Locust and a tiny model: everything, in the smallest form."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import msgspec
import pytest

import bench.compare.arguments
from bench.compare.command import compare, run
from bench.compare.plan import Plan, StreamLoad
from bench.compare.points import LoadPoint
from bench.result import Result
from handler.errors import ConfigurationError
from handler.settings import Settings

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.compare.arguments.add_parser(parser.add_subparsers())
    return parser.parse_args(["compare", *arguments])


def tiny_plan() -> Plan:
    cores = sorted(os.sched_getaffinity(0))
    few = StreamLoad(
        rates_per_s=(20.0,),
        seconds=1.0,
        warm_up_s=0.2,
        timeout_s=10.0,
        prompt_tokens=4,
        tokens=4,
        objectives="e2e:10s",
    )
    return Plan(
        is_quick=True,
        stacks=("pilotlight", "fastapi"),
        rounds=1,
        chat_rounds=2,
        model_rounds=1,
        seconds=1,
        warm_up_seconds=1,
        busy_connections=4,
        crowd=8,
        curve=(6,),
        streams=2,
        stream_tokens=8,
        open_loops=few,
        model_loops=msgspec.structs.replace(few, rates_per_s=(), rate_shares=(0.5,), users=1),
        threads=2,
        server_core=cores[0],
        load_core=cores[-1],
        seed=0,
    )


def written(result: Result, directory: Path) -> None:
    (directory / "report").write_text(result.benchmark)


@pytest.fixture
def settings(tiny_environ: dict[str, str]) -> Settings:
    return Settings.from_env(tiny_environ)


def points_of(result: Result, contender: str) -> dict[tuple[object, ...], LoadPoint]:
    points = [
        msgspec.convert(point, LoadPoint)
        for entry in result.rounds
        if entry.contender == contender
        for point in entry.details["points"]
    ]
    return {(point.engine, point.workload, point.connections, point.offered_per_s): point for point in points}


def test_two_stacks_with_everything(settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    code = compare(tiny_plan(), parsed("--out", str(out)), settings, written)
    captured = capfd.readouterr()
    result = msgspec.json.decode((out / "result.json").read_bytes(), type=Result)
    assert result.failures == ()
    assert code in {0, 1}  # whether a goal is reached in a second is not for a test to say
    assert (out / "report").read_text() == "compare"
    (rate,) = result.plan["model_loops"]["rates_per_s"]
    for stack in ("pilotlight", "fastapi"):
        points = points_of(result, stack)
        assert set(points) == {
            ("stub", "database", 4, None),
            ("stub", "json", 4, None),
            ("stub", "template", 4, None),
            ("stub", "chat", 4, None),
            ("stub", "chat", 6, None),
            ("stub", "chat", 8, None),
            ("stub", "stream", 2, None),
            ("stub", "stream", None, 20.0),
            ("model", "stream", 1, None),
            ("model", "stream", None, rate),
        }
        for point in points.values():
            assert point.failures == {}
            if point.raw is not None:
                assert (out / "raw" / point.raw).stat().st_size > 0
        assert points["stub", "chat", 4, None].requests_per_s > 0
        metrics = result.summary[stack]
        assert metrics["rss_bytes"].median <= metrics["rss_database_bytes"].median <= metrics["rss_bytes@8"].median
        assert metrics["cpu_us"].median > 0
    assert {ratio.denominator.partition(" ")[0] for ratio in result.ratios} == {"fastapi"}
    assert "1 of 13, " in captured.err
    assert "requests per second: measured, and as quoted" in captured.out
    assert "chats per second as fastapi" in captured.out


def test_a_stack_that_does_not_start_is_a_failure_and_others_go_on(
    settings: Settings, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    # gunicorn cannot start a worker without threads; the others have no use for them.
    plan = msgspec.structs.replace(tiny_plan(), stacks=("bare", "flask"), threads=0, model_rounds=0)
    assert compare(plan, parsed("--json"), settings, written) == 1
    result = msgspec.json.decode(capfdbinary.readouterr().out, type=Result)
    assert {(failure.contender, failure.error.partition(":")[0]) for failure in result.failures} == {
        ("flask", "chats"),
        ("flask", "whole answers"),
        ("flask", "streams"),
        ("flask", "open loops"),
    }
    assert {entry.contender for entry in result.rounds} == {"bare"}


def test_one_processor_is_not_enough(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    with pytest.raises(ConfigurationError, match="two processors"):
        run(parsed("--quick"), settings, written)


def test_without_wrk_it_says_what_to_install(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigurationError, match="apt-get install wrk"):
        run(parsed("--quick", "--only", "bare"), settings, written)
