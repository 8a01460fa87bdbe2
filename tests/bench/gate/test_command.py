from __future__ import annotations

import argparse
import os
from pathlib import Path

import msgspec
import pytest

from bench.gate import command
from bench.gate.counting import can_count
from bench.gate.injections import MICRO
from bench.gate.installation import Installation
from bench.gate.result import GateResult, Revision
from handler.__main__ import main
from tests.bench.gate.sides import SOURCE, side_of

_FEWER = {"sse": 20}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of building revisions: BASE is the function as it is, HEAD the same with a slower path."""
    injection = next(each for each in MICRO if each.name == "sse")
    slower = injection.apply((SOURCE.parent / injection.file).read_text(encoding="utf-8"), 100)
    sides = {"v1": side_of(tmp_path / "base"), "v2": side_of(tmp_path / "head", injection.file, slower)}

    def install(repository: Path, revision: Revision, cache: Path) -> Installation:
        del repository, cache
        return sides[revision.name]

    def resolve(repository: Path, name: str) -> Revision:
        del repository
        return Revision(name=name, commit="0" * 40, subject=f"Release {name}")

    def plan(args: argparse.Namespace) -> object:
        return msgspec.structs.replace(whole_plan(args), paths=_FEWER)

    whole_plan = command._plan
    monkeypatch.setattr(command, "install", install)
    monkeypatch.setattr(command, "resolve", resolve)
    monkeypatch.setattr(command, "_plan", plan)


@pytest.mark.skipif(not can_count(), reason="valgrind is not installed")
@pytest.mark.usefixtures("installed")
def test_a_slower_head_fails_and_the_result_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gate.json"
    code = main(["bench", "gate", "v1", "v2", "--only", "micro", "--json", "--out", str(out)])
    result = msgspec.json.decode(capsys.readouterr().out, type=GateResult)
    assert (code, result.verdict) == (1, "fail")
    assert [(metric.name, metric.verdict) for metric in result.metrics] == [("sse_instructions", "fail")]
    assert result.head.subject == "Release v2"
    assert msgspec.json.decode(out.read_bytes(), type=GateResult).metrics == result.metrics


@pytest.mark.skipif(not can_count(), reason="valgrind is not installed")
@pytest.mark.usefixtures("installed")
def test_two_sides_that_are_the_same_pass(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gate", "v1", "v1", "--only", "micro"]) == 0
    assert "pass: v1" in capsys.readouterr().out


def test_what_is_no_revision_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gate", "no-such-branch", "--only", "micro"]) == 2
    assert "Needed a single revision" in capsys.readouterr().err


def test_too_few_rounds_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gate", "HEAD", "--rounds", "3"]) == 2
    assert "--rounds: fewer than 7" in capsys.readouterr().err


def test_one_processor_is_not_enough(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert main(["bench", "gate", "HEAD"]) == 2
    assert "needs two processors" in capsys.readouterr().err
