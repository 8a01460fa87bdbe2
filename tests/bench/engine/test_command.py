from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

import bench.cli
from bench.errors import BenchError
from bench.models import random_model
from bench.result import Result
from bench.rounds import Measurement, run_rounds
from handler.__main__ import main

SMALL = ["--clients", "1,2", "--tokens", "8", "--requests", "1", "--prompt-tokens", "300", "--bandwidth-mib", "8"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for key, value in {"PILOTLIGHT_HOME": str(tmp_path), "MODEL_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(key, value)


def bench_engine(*arguments: str) -> int:
    return main(["bench", "engine", *arguments], {"bench": bench.cli})


def test_who_ends_the_profile_keeps_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never_ends(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.engine.command._profile", never_ends)
    out = tmp_path / "result.json"
    with contextlib.suppress(KeyboardInterrupt):
        bench_engine(
            *SMALL, "--random-model", "tiny", "--parts", "engine", "--rounds", "1", "--profile", "--out", str(out)
        )
    result = msgspec.json.decode(out.read_bytes(), type=Result)
    assert result.profile is None
    assert result.summary["engine"]


def test_a_whole_run(capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "result.json"
    code = bench_engine(
        *SMALL, "--random-model", "tiny", "--random-dtype", "float32", "--rounds", "1", "--profile", "--json",
        "--out", str(out),
    )  # fmt: skip
    assert code == 0
    result = msgspec.json.decode(capsysbinary.readouterr().out, type=Result)
    assert result == msgspec.json.decode(out.read_bytes(), type=Result)
    assert str(tmp_path) not in out.read_text()
    assert result.settings["PILOTLIGHT_HOME"] == tmp_path.name
    assert result.failures == ()
    assert {entry.contender for entry in result.rounds} == {"engine", "pilotlight"}
    engine, server = result.summary["engine"], result.summary["pilotlight"]
    for count in (1, 2):
        assert {f"tokens_per_s@{count}", f"step_p50_ms@{count}", f"roofline_share@{count}"} <= set(engine)
        assert {f"tokens_per_s@{count}", f"ttft_p50_ms@{count}"} <= set(server)
    assert all(summary.median > 0 for name, summary in engine.items() if "gap" not in name)
    assert engine["repeated_ttft_ms"].median > 0
    assert 0 < engine["weight_bytes"].median < engine["rss_after_load_bytes"].median
    assert engine["rss_after_load_bytes"].median <= engine["peak_after_load_bytes"].median
    (details,) = [entry.details for entry in result.rounds if entry.contender == "engine"]
    assert details["cached_tokens"] >= 256
    assert details["model"]["dtype"] == "float32"
    assert sum(details["prefill_step_s"]) * 1e3 == pytest.approx(engine["long_ttft_ms"].median)
    (served,) = [entry.details for entry in result.rounds if entry.contender == "pilotlight"]
    assert [stream["completion_tokens"] for stream in served["streams@2"]] == [8, 8]
    assert all(stream["cached_tokens"] >= 256 for stream in served["repeated"])
    assert all(stream["cached_tokens"] == 0 for stream in served["long"])
    assert result.profile is not None
    assert set(result.profile) == {"1", "2"}
    assert {ratio.numerator for ratio in result.ratios} == {
        "pilotlight repeated_ttft_ms",
        "engine stall_gap_max_ms",
        "pilotlight tokens_per_s@1",
        "pilotlight tokens_per_s@2",
    }


def test_tables_show_what_failed_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The prompt does not fit the model's context, so the server refuses it."""
    model = random_model("tiny", "float32", tmp_path).directory
    code = bench_engine(
        *SMALL[:-4], "--prompt-tokens", "9000", "--model", str(model), "--rounds", "1", "--parts", "http"
    )
    shown = capsys.readouterr()
    assert code == 1
    assert "failed: pilotlight, round 1" in shown.out
    assert "context_length_exceeded" in shown.err
    assert "round 1 of 1: pilotlight" in shown.err


class Clockwork:
    """Fails in every second round."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name = name
        self._calls = calls

    def measure(self, round_number: int) -> Measurement:
        self._calls.append(f"{self.name}{round_number}")
        if self.name == "b" and round_number % 2:
            raise BenchError("out of memory")
        return Measurement(metrics={"speed": float(round_number)})


def test_rounds_are_interleaved_and_a_failure_ends_nothing() -> None:
    calls: list[str] = []
    shown: list[str] = []
    contenders = [Clockwork(name, calls) for name in "abc"]
    rounds, failures = run_rounds(contenders, 8, random.Random(0), shown.append)
    turns = [calls[start : start + 3] for start in range(0, 24, 3)]
    assert [sorted(turn) for turn in turns] == [[f"{name}{number}" for name in "abc"] for number in range(8)]
    assert len({tuple(call[0] for call in turn) for turn in turns}) > 1
    assert [(failure.contender, failure.round_number) for failure in failures] == [("b", n) for n in (1, 3, 5, 7)]
    assert len(rounds) == 20
    assert "out of memory" in shown


@pytest.mark.parametrize(
    "argument",
    ["--clients=0", "--clients=1,x", "--parts=gpu", "--peer=vllm", "--rounds=-1", "--random-model=x"],
)
def test_bad_usage_is_exit_code_2(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench_engine(argument)
    assert caught.value.code == 2
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_a_missing_peer_is_exit_code_2_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_engine("--peer", "llama-cpp", "--peer-python", "/nowhere/python") == 2
    shown: Any = capsys.readouterr()
    assert shown.err.startswith("pilotlight: --peer-python: /nowhere/python cannot be run")
    assert shown.out == ""
