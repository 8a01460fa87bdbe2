from __future__ import annotations

from typing import Any

import msgspec
import pytest

from bench.baselines.plan import STACKS
from bench.compare.metrics import comparisons_of
from bench.compare.plan import quick_plan
from bench.compare.points import LoadPoint
from bench.compare.tables import show
from bench.comparison import ratios, summaries
from bench.environment import look_around
from bench.result import Failure, Result, RoundResult

POINT = LoadPoint(engine="stub", workload="chat", connections=64, seconds=1.0, requests_per_s=9.0, latency_ms=())


def result(points: list[LoadPoint], metrics: dict[str, dict[str, float]]) -> Result:
    details: dict[str, Any] = {"points": msgspec.to_builtins(points)}
    rounds = [
        RoundResult(round_number=number, contender=stack, load_average_1=0.0, metrics=figures, details=details)
        for number in range(3)
        for stack, figures in metrics.items()
    ]
    return Result(
        benchmark="compare",
        arguments=(),
        environment=look_around(),
        settings={},
        peers={},
        plan={"rounds": 3, "chat_rounds": 4},
        rounds=tuple(rounds),
        failures=(Failure(round_number=0, contender="django", error="it [b]ended[/b]"),),
        summary=summaries(rounds),
        ratios=ratios(rounds, comparisons_of(quick_plan(STACKS, 3, 0, 1, 0))),
        profile=None,
    )


def test_measured_figures_stand_beside_quoted_ones(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {
        "pilotlight": {"json_requests_per_s@64": 9001.0, "chat_requests_per_s@64": 400.0, "rss_bytes": 53e6},
        "flask": {"json_requests_per_s@64": 777.0, "chat_requests_per_s@64": 100.0},
    }
    show(result([POINT], metrics))
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["pilotlight", "9,001"] for line in lines)
    assert any(line.split()[:4] == ["flask", "777", "28,000", "12,000"] for line in lines)
    assert any(line.split() == ["pilotlight", "53"] for line in lines)
    assert "failed: django, round 1: it [b]ended[/b]" in lines
    assert "missed: at least 5 times as many chats per second as flask: 4 (4 to 4)" in lines
    assert any(line.startswith("not measured: at least 3 times") for line in lines)
    assert not any(line.startswith(("noisy", "invalid", "failures")) for line in lines)


def test_what_says_nothing_of_a_server_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    points = [
        msgspec.structs.replace(POINT, invalid="no whole answer came", others_cpu_share=0.05),
        msgspec.structs.replace(POINT, failures={"timeout": 3}, connections=None, offered_per_s=50.0),
        msgspec.structs.replace(POINT, others_cpu_share=0.4),
    ]
    show(result(points, {"flask": {}}))
    out = capsys.readouterr().out
    assert "invalid: flask, round 1, stub, chat, 64 connections: no whole answer came" in out
    assert "failures: flask, round 2, stub, chat, 50 a second: 3 timeout" in out
    assert "noisy: in 3 of 9 loads" in out
    assert "40% at most" in out
