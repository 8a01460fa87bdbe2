"""One revision of the function, installed beside others: built from git, in a cache, with a home of its own.

The function is the revision's; the harness that measures it is ours, the same for both sides. Where our harness does
not fit a revision's function, the revision's own harness serves it (`own_harness`).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import msgspec

import bench
from bench.errors import BenchError
from bench.gate.git import archive, object_id
from bench.gate.result import Revision
from handler.engine.snapshot import EMBEDDED_MODEL, snapshot_directory

_PARTS = ("handler", "bench", "pyproject.toml", "constraints.txt")
_INSTALL_TIMEOUT_S = 1800.0
_KEPT = 12
_PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;#]+)", re.MULTILINE)


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """Where a revision's function lies.

    Attributes:
        directory: in the cache; its `handler` lies in `function`, its own `bench` in `harness`, its snapshot in `home`.
        python: the interpreter that has what it depends on.
        own_harness: whether its own harness serves it.
    """

    directory: str
    python: str
    own_harness: bool = False

    @property
    def home(self) -> Path:
        """PILOTLIGHT_HOME: snapshots in the revision's own format."""
        return Path(self.directory) / "home"

    def command(self, module: str) -> tuple[str, ...]:
        """How one of its modules, or one of the harness that serves it, is run."""
        return (self.python, "-P", "-m", module)

    def environment(self) -> dict[str, str]:
        """In which its function is found before any other, and then the harness."""
        directory = Path(self.directory)
        harness = directory / "harness" if self.own_harness else Path(bench.__file__).parent.parent
        paths = [str(directory / "function"), str(harness)]
        return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PILOTLIGHT_HOME": str(self.home)}


def install(repository: Path, revision: Revision, cache: Path) -> Installation:
    """Build a revision, unless the cache has what is the same.

    Raises:
        ConfigurationError: git failed.
        BenchError: it cannot be built, or what it depends on cannot be installed.
    """
    parts = "".join(object_id(repository, revision.commit, part) + "\n" for part in _PARTS)
    key = hashlib.sha256(f"{sys.version}\n{parts}".encode()).hexdigest()[:16]
    directory = cache / key
    if not directory.exists():
        cache.mkdir(parents=True, exist_ok=True)
        _prune(cache)
        with tempfile.TemporaryDirectory(prefix="building-", dir=cache) as building:
            source = Path(building) / "source"
            archive(repository, revision.commit, source)
            _build(source, Path(building) / "made", revision)
            shutil.copy(source / "constraints.txt", Path(building) / "made" / "constraints.txt")
            _prepare(Path(building) / "made", revision, cache)
            (Path(building) / "made").rename(directory)
    directory.touch()
    return Installation(directory=str(directory), python=_interpreter(directory, revision))


def differing_pins(constraints: str) -> list[str]:
    """Pins that this interpreter's packages do not match; one that it has no package for says nothing."""
    differing = []
    for pin in _PIN.finditer(constraints):
        try:
            version = metadata.version(pin["name"]).partition("+")[0]
        except metadata.PackageNotFoundError:
            continue
        if version != pin["version"].partition("+")[0]:
            differing.append(pin[0])
    return differing


def _build(source: Path, made: Path, revision: Revision) -> None:
    """Install without dependencies, kernels compiled, and put the function and its harness in places of their own."""
    function, harness = made / "function", made / "harness"
    _pip(sys.executable, ["--no-deps", "--target", str(function), str(source)], revision)
    harness.mkdir()
    (function / "bench").rename(harness / "bench")
    shutil.rmtree(function / "bin", ignore_errors=True)


def _prepare(made: Path, revision: Revision, cache: Path) -> None:
    """Have the revision make its snapshot of the embedded model.

    It finds a copy of one that is there already, and says itself whether that is whole and in its format: to make one
    takes longer than to build the function.
    """
    installation = Installation(directory=str(made), python=_interpreter(made, revision))
    homes = [cache.parent, *(each / "home" for each in _by_use(cache))]
    known = next((home for home in homes if snapshot_directory(EMBEDDED_MODEL, home).exists()), None)
    if known is not None:
        shutil.copytree(
            snapshot_directory(EMBEDDED_MODEL, known), snapshot_directory(EMBEDDED_MODEL, installation.home)
        )
    command = [*installation.command("handler"), "prepare", EMBEDDED_MODEL]
    _run(command, installation.environment(), f"{revision.name} cannot prepare {EMBEDDED_MODEL}")


def _interpreter(directory: Path, revision: Revision) -> str:
    """This one where its packages are what the revision pins; else one of a virtual environment that has them."""
    pins = (directory / "constraints.txt").read_text(encoding="utf-8")
    if not differing_pins(pins):
        return sys.executable
    environment = directory / "venv"
    python = environment / "bin" / "python"
    if not (environment / ".complete").exists():
        shutil.rmtree(environment, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(environment)], os.environ, f"no environment for {revision.name}")
        requirements = ["--constraint", str(directory / "constraints.txt"), *_requirements(directory)]
        _pip(str(python), requirements, revision)
        (environment / ".complete").touch()
    return str(python)


def _requirements(directory: Path) -> list[str]:
    """What the revision's package asks for, with the extras that the gate uses."""
    (found,) = metadata.distributions(path=[str(directory / "function")], name="pilotlight")
    wanted = []
    for requirement in found.requires or []:
        what, _, marker = requirement.partition(";")
        if not marker or any(f'"{extra}"' in marker for extra in ("embedded", "prepare", "bench")):
            wanted.append(what.strip())
    return wanted


def _pip(python: str, arguments: list[str], revision: Revision) -> None:
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
    _run(command, os.environ, f"{revision.name} cannot be installed")


def _run(command: Sequence[str], environ: Mapping[str, str], what_if_not: str) -> None:
    try:
        subprocess.run(  # noqa: S603  (our own arguments)
            command, capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=True, env=environ
        )
    except subprocess.CalledProcessError as error:
        raise BenchError(f"{what_if_not}:\n{error.stderr.strip()[-2000:]}") from error


def _prune(cache: Path) -> None:
    """Forget the installations that were not used for longest."""
    for old in _by_use(cache)[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)


def _by_use(cache: Path) -> list[Path]:
    """What lies in the cache, the last used first."""
    return sorted(cache.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
