from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.errors import BenchError
from bench.gate.git import is_modified, repository_at, resolve
from bench.gate.installation import differing_pins, install
from handler.errors import ConfigurationError

_PYPROJECT = """
[project]
name = "pilotlight"
version = "0.1.0"
dependencies = ["msgspec"]

[tool.setuptools.packages.find]
include = ["handler*", "bench*"]

[build-system]
requires = ["setuptools==84.2.1"]
build-backend = "setuptools.build_meta"
"""
_MAIN = """
import os, pathlib, sys
assert sys.argv[1:] == ["prepare", "smollm2-135m"], sys.argv
home = pathlib.Path(os.environ["PILOTLIGHT_HOME"])
home.mkdir(exist_ok=True)
given = home / "snapshots" / "smollm2-135m" / "weights"
(home / "prepared").write_text(given.read_text() if given.exists() else "yes")
"""


def _git(directory: Path, *arguments: str) -> None:
    author = ("-c", "user.name=someone", "-c", "user.email=someone@localhost")
    subprocess.run(["git", "-C", str(directory), *author, *arguments], check=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits of a project with the same parts as ours; the second one cannot prepare its model."""
    directory = tmp_path / "repository"
    for package in ("handler", "bench"):
        (directory / package).mkdir(parents=True)
        (directory / package / "__init__.py").touch()
    (directory / "pyproject.toml").write_text(_PYPROJECT)
    (directory / "constraints.txt").write_text("msgspec==0.0.0\n")
    (directory / "handler" / "__main__.py").write_text("raise SystemExit('no model')")
    _git(directory, "init", "--quiet")
    _git(directory, "add", ".")
    _git(directory, "commit", "--quiet", "--message", "Begin")
    (directory / "constraints.txt").write_text("")
    _git(directory, "commit", "--quiet", "--all", "--message", "Pin nothing")
    (directory / "handler" / "__main__.py").write_text(_MAIN)
    _git(directory, "commit", "--quiet", "--all", "--message", "Prepare")
    return directory


def test_a_revision_is_built_once_and_its_function_is_found_first(repository: Path, tmp_path: Path) -> None:
    revision = resolve(repository, "HEAD")
    assert revision.subject == "Prepare"
    found = install(repository, revision, tmp_path / "cache")
    assert found.python == sys.executable
    assert (found.home / "prepared").read_text() == "yes"
    code = "import handler, bench; print(handler.__file__, bench.__file__)"
    own = msgspec.structs.replace(found, own_harness=True)
    for installation, harness in ((found, Path.cwd()), (own, Path(found.directory))):
        command = [*installation.command("handler")[:2], "-c", code]
        shown = subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=True)
        of_function, of_harness = shown.stdout.split()
        assert of_function.startswith(f"{found.directory}/function/")
        assert of_harness.startswith(str(harness))
    (found.home / "prepared").write_text("still there")
    assert install(repository, revision, tmp_path / "cache") == found
    assert (found.home / "prepared").read_text() == "still there"


def test_a_snapshot_that_is_there_is_copied_for_the_revision_to_judge(repository: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "smollm2-135m"
    snapshot.mkdir(parents=True)
    (snapshot / "weights").write_text("of somebody else")
    found = install(repository, resolve(repository, "HEAD"), tmp_path / "cache")
    assert (found.home / "prepared").read_text() == "of somebody else"
    (found.home / "snapshots" / "smollm2-135m" / "weights").write_text("changed")
    assert (snapshot / "weights").read_text() == "of somebody else"


def test_a_revision_that_does_not_work_is_named_and_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"HEAD~1 cannot prepare smollm2-135m:\nno model"):
        install(repository, resolve(repository, "HEAD~1"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_other_pins_ask_for_an_environment_of_their_own() -> None:
    pins = f"# pinned\nmsgspec=={msgspec.__version__}\nnobody-has-this==1.0\n"
    assert differing_pins(pins) == []
    assert differing_pins(pins + "starlette==0.0.1\n") == ["starlette==0.0.1"]


def test_names_of_no_revision_are_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"git rev-parse: .*Needed a single revision"):
        resolve(repository, "no-such-branch")
    with pytest.raises(ConfigurationError):
        resolve(repository, "--output=/tmp/x")
    with pytest.raises(ConfigurationError, match="not a git repository"):
        repository_at(tmp_path)


def test_uncommitted_changes_are_seen(repository: Path) -> None:
    assert not is_modified(repository)
    (repository / "constraints.txt").write_text(os.linesep)
    assert is_modified(repository)
