"""Instructions of the micro paths, counted by valgrind's callgrind: the same each time, however busy the machine is."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.errors import BenchError
from bench.gate.blame import SideName, blaming
from bench.gate.installation import Installation
from bench.gate.metrics import Metric, micro
from bench.gate.pair import Pair

_TIMEOUT_S = 600.0
_TOTALS = re.compile(rb"^totals: (\d+)", re.MULTILINE)
_MARK = "getppid"


def can_count() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None


def count(sides: Pair[Installation], paths: Mapping[str, int]) -> dict[Metric, Pair[float]]:
    """Instructions of a call of each path; both sides at once, as neither can disturb the other.

    Args:
        sides: what is compared.
        paths: by name, with the number of calls over which is counted.

    Raises:
        SideError: a path failed, or valgrind did.
    """
    with ThreadPoolExecutor(2) as executor:
        base = executor.submit(_count, sides.base, "base", paths)
        head = executor.submit(_count, sides.head, "head", paths)
        counts = Pair(base.result(), head.result())
    return {micro(path, "counted"): Pair(counts.base[path], counts.head[path]) for path in paths}


def _count(side: Installation, name: SideName, paths: Mapping[str, int]) -> dict[str, float]:
    with blaming(name), tempfile.TemporaryDirectory(prefix="pilotlight-bench-") as directory:
        _run(side, paths, directory)
        return _read(Path(directory), paths)


def _run(side: Installation, paths: Mapping[str, int], directory: str) -> None:
    program = shutil.which("valgrind")
    assert program is not None, "ask can_count first"
    command = [
        *(program, "--tool=callgrind", f"--dump-before={_MARK}", f"--callgrind-out-file={directory}/counts"),
        *(*side.command("bench.gate.counted"), *(f"{path}={calls}" for path, calls in paths.items())),
    ]
    # One seed for all, so that sets and dictionaries of strings are laid out alike.
    environ = side.environment() | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(  # noqa: S603  (our own arguments)
        command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, env=environ
    )
    if done.returncode != 0:
        raise BenchError(f"the micro paths ended with {done.returncode}:\n{done.stderr.strip()[-1500:]}")


def _read(directory: Path, paths: Mapping[str, int]) -> dict[str, float]:
    """Dump 1 is what came before the first mark, 2 the first path's calls, 3 what lies between, and so on."""
    counts = {}
    for number, (path, calls) in enumerate(paths.items()):
        try:
            found = _TOTALS.search((directory / f"counts.{2 * number + 2}").read_bytes())
        except FileNotFoundError:
            found = None
        if found is None:
            raise BenchError(f"callgrind has not counted {path}")
        counts[path] = int(found[1]) / calls
    return counts
