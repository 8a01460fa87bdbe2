"""The least that a start with torch takes: an interpreter that imports it and reads the weights."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from bench.errors import BenchError
from bench.rounds import Measurement

_TIMEOUT_S = 300.0
_LOG_CHARACTERS = 1500
_SCRIPT = """
import sys, time
import torch
print(time.perf_counter())
buffer = bytearray(1 << 20)
for path in sys.argv[1:]:
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
print(time.perf_counter())
"""


class Floor:
    """`python -c "import torch"`, and every byte of the weights. Of Linux, where processes share the clock."""

    name = "floor"

    def __init__(self, weights: Sequence[str], prepare: Callable[[], None]) -> None:
        self._command = [sys.executable, "-I", "-c", _SCRIPT, *weights]
        self._prepare = prepare

    def measure(self, round_number: int) -> Measurement:
        """Seconds from exec until torch was imported, and until the weights had been read."""
        del round_number
        self._prepare()
        began_s = time.perf_counter()
        try:
            done = subprocess.run(  # noqa: S603  (our own script, and files that we found)
                self._command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
            )
        except subprocess.CalledProcessError as error:
            raise BenchError(f"the floor ended with {error.returncode}:\n{error.stderr[-_LOG_CHARACTERS:]}") from error
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the floor did not end within {_TIMEOUT_S:g} s") from error
        imported_s, read_s = (float(line) - began_s for line in done.stdout.split())
        return Measurement(metrics={"import_torch_s": imported_s, "weights_read_s": read_s})
