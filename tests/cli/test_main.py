from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import handler.cli.check
from handler import __version__
from handler.__main__ import COMMAND_GROUP, COMMANDS, main
from handler.errors import ConfigurationError, PilotlightError, SnapshotError


def raising(error: BaseException) -> Any:
    def run(args: object, settings: object) -> int:
        raise error

    return run


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigurationError("PORT", "is bad"), 2, "pilotlight: PORT: is bad\n"),
        (SnapshotError("no model"), 1, "pilotlight: no model\n"),
        (PilotlightError("whatever"), 1, "pilotlight: whatever\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_a_line_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handler.cli.check, "run", raising(error))
    assert main(["check"]) == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", message)


def test_a_bad_setting_is_told_by_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "eighty")
    for command in ("serve", "logs", "check"):
        assert main([command]) == 2
        assert capsys.readouterr().err == "pilotlight: PORT: must be a whole number, got 'eighty'\n"


def test_dotenv_beside_us_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_text("QUANTIZATION=int3\n")
    assert main(["check"]) == 2
    assert "QUANTIZATION" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["unknown"], ["serve", "--port", "x"], ["serve", "--nope"]])
def test_bad_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: pilotlight" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_commands_of_installed_packages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "added.py").write_text(
        "def add_parser(subparsers): subparsers.add_parser('added', help='more').add_argument('--code', type=int)\n"
        "def run(args, settings): return args.code\n"
    )
    information = tmp_path / "added-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: added\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{COMMAND_GROUP}]\nadded = added\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["added", "--code", "7"]) == 7
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "added" in capsys.readouterr().out


def test_the_harness_is_such_a_command() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for module in project["entry-points"][COMMAND_GROUP].values():
        command = importlib.import_module(module)
        assert callable(command.add_parser)
        assert callable(command.run)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"pilotlight {__version__}\n"


def test_serve_imports_nothing_slow_before_it_listens() -> None:
    code = (
        "import sys, handler.__main__, handler.cli.serve;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'asyncpg', 'rich', 'locust') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout == "[]\n"
