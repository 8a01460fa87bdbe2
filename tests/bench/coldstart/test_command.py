from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import msgspec
import pytest

import bench.cli
from bench.result import Result
from handler.__main__ import main
from handler.engine.snapshot import EMBEDDED_MODEL, Snapshot
from tests.conftest import TEST_HOME


@pytest.fixture(autouse=True)
def _embedded(embedded_snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_NAME", embedded_snapshot.name)
    monkeypatch.setenv("PILOTLIGHT_HOME", str(TEST_HOME))


def _run(*arguments: str) -> int:
    return main(["bench", "coldstart", *arguments], {"bench": bench.cli})


def test_starts_of_the_function_and_of_a_peer_beside_the_floor(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    peer = shlex.join([sys.executable, "-m", "handler", "serve", "--host", "127.0.0.1", "--port", "{port}"])
    arguments = ("--peer-command", f"env DATABASE_URL=none {peer}", "--peer-model", EMBEDDED_MODEL)
    code = _run("--runs", "1", "--json", "--out", str(tmp_path / "result.json"), *arguments)
    captured = capfdbinary.readouterr()
    result = msgspec.json.decode(captured.out, type=Result)
    assert result.failures == ()
    assert code == (1 if b"missed: " in captured.err else 0)
    measured = {each.contender: each.metrics for each in result.rounds}
    assert set(measured) == {"pilotlight", "floor", "peer"}
    ours = measured["pilotlight"]
    assert 0 < ours["interpreter_s"] < ours["health_s"] < ours["first_token_s"]
    assert ours["import_torch_s"] < ours["first_token_s"]
    assert 0 < measured["floor"]["import_torch_s"] < measured["floor"]["weights_read_s"]
    assert 0 < measured["peer"]["health_s"] < measured["peer"]["first_token_s"]
    assert [ratio.name for ratio in result.ratios] == ["first token, to the floor"]


def test_a_function_that_ends_when_idle_is_started_for_whoever_connects(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    assert _run("--scale-to-zero", "--runs", "1", "--json") == 0
    result = msgspec.json.decode(capfdbinary.readouterr().out, type=Result)
    (measured,) = (each.metrics for each in result.rounds)
    assert (measured["lost"], measured["starts"] in {2.0, 3.0}) == (0.0, True)
    assert 0 < measured["warm_first_token_s"] < measured["cold_first_token_s"]


def test_who_does_not_start_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    line = shlex.join([sys.executable, "-c", "raise SystemExit('no {port} today')"])
    assert _run("--runs", "1", "--only", "peer", "--peer-command", line) == 1
    assert "peer ended with 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--peer-command", "serve"), "does not say {port}"),
        (("--only", "peer"), "nobody is left"),
        (("--transformers", "--peer-python", "/nowhere/python"), "--peer-python: /nowhere/python cannot be run"),
        (("--runs", "0"), "must be a whole number"),
        (("--scale-to-zero", "--only", "floor"), "is of the function alone"),
    ],
)
def test_what_does_not_go_together_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    try:
        code: object = _run(*arguments)
    except SystemExit as error:  # argparse
        code = error.code
    assert code == 2
    assert said in capsys.readouterr().err


def _num_drops() -> int:
    """How often the page cache has been emptied since this machine started."""
    lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("drop_pagecache "))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may empty the page cache")
@pytest.mark.parametrize(("options", "expected"), [((), 0), (("--drop-caches",), 2)])
def test_the_page_cache_is_emptied_before_each_start(
    capfdbinary: pytest.CaptureFixture[bytes], options: tuple[str, ...], expected: int
) -> None:
    before = _num_drops()
    assert _run("--runs", "2", "--only", "floor", "--json", *options) == 0
    assert _num_drops() - before == expected
    assert msgspec.json.decode(capfdbinary.readouterr().out, type=Result).plan["drops_caches"] == bool(expected)
