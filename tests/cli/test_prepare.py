from __future__ import annotations

import argparse
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from handler.cli import prepare as command
from handler.engine.snapshot import find_snapshot
from handler.errors import SnapshotNotFoundError
from handler.settings import Settings
from tests.tiny_models import make_model, save_model

ROOT = Path(__file__).parents[2]
SCRIPT = """
import argparse, os
from handler.cli import prepare
from handler.settings import Settings
parser = argparse.ArgumentParser()
prepare.add_parser(parser.add_subparsers())
raise SystemExit(prepare.run(parser.parse_args(), Settings.from_env(os.environ)))
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(make_model("llama"), tmp_path / "tiny")


def run(home: Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return command.run(parser.parse_args(["prepare", *arguments]), Settings.from_env({"PILOTLIGHT_HOME": str(home)}))


def test_it_tells_each_step_and_ends_with_directory_size_and_seconds(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, str(model)) == 0
    snapshot = find_snapshot(str(model), tmp_path)
    out, err = capsys.readouterr()
    assert out.startswith(f"tiny is ready: {snapshot.directory} (")
    assert out.endswith(" s)\n")
    assert out.count("\n") == 1
    assert [line.partition(" (")[0] for line in err.splitlines()] == [
        f"reading {model}",
        "bringing the weights",
        "quantising the weights to int8",
        "taking checksums",
    ]


def test_json_is_all_that_is_printed(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, str(model), "--json") == 0
    snapshot = find_snapshot(str(model), tmp_path)
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert result.pop("duration_s") > 0
    assert err == ""
    assert result == {
        "name": "tiny",
        "directory": str(snapshot.directory),
        "source": f"directory {model}",
        "size_bytes": snapshot.size_bytes,
    }


def test_force_makes_it_anew(model: Path, tmp_path: Path) -> None:
    run(tmp_path, str(model), "--json")
    made = find_snapshot(str(model), tmp_path).directory.stat().st_ino
    run(tmp_path, str(model), "--json")
    assert find_snapshot(str(model), tmp_path).directory.stat().st_ino == made
    run(tmp_path, str(model), "--json", "--force")
    assert find_snapshot(str(model), tmp_path).directory.stat().st_ino != made


def test_without_a_name_it_prepares_the_model_of_the_settings(model: Path, tmp_path: Path) -> None:
    settings = Settings.from_env({"PILOTLIGHT_HOME": str(tmp_path), "MODEL_NAME": str(model)})
    assert command.run(argparse.Namespace(model=None, force=False, json=True), settings) == 0
    find_snapshot(str(model), tmp_path)


def test_errors_are_the_callers_to_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SnapshotNotFoundError):
        run(tmp_path, "no-such-model")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_sees_bars_and_a_pipe_gets_the_result(model: Path, tmp_path: Path) -> None:
    terminal, end = pty.openpty()
    environ = os.environ | {"PILOTLIGHT_HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "120"}
    arguments = [sys.executable, "-c", SCRIPT, "prepare", str(model)]
    result = subprocess.run(arguments, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=end, check=True)
    os.close(end)
    shown = io.BytesIO()
    try:
        while block := os.read(terminal, 65536):
            shown.write(block)
    except OSError:  # how Linux says that nobody writes to a terminal any more
        pass
    os.close(terminal)
    assert result.stdout.startswith(b"tiny is ready: ")
    screen = shown.getvalue().decode()
    for step in ("reading", "bringing the weights", "taking checksums"):
        assert step in screen
    assert "━" in screen
    assert "\x1b[" in screen
