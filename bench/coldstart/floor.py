"""The least that a start with torch takes: an interpreter that imports it and reads the weights."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from bench.errors import BenchError
from bench.rounds import Measurement

_TIMEOUT_S = 300.0
_SCRIPT = """
import sys
import torch
print("torch", flush=True)
buffer = bytearray(1 << 20)
for path in sys.argv[1:]:
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
print("weights", flush=True)
"""


class Floor:
    """`python -c "import torch"`, and every byte of the weights."""

    name = "floor"

    def __init__(self, weights: Sequence[str], prepare: Callable[[], None]) -> None:
        self._command = [sys.executable, "-I", "-c", _SCRIPT, *weights]
        self._prepare = prepare

    def measure(self, round_number: int) -> Measurement:
        """Seconds from exec until torch was imported, and until the weights had been read."""
        del round_number
        self._prepare()
        began_s = time.perf_counter()
        with subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
            assert process.stdout is not None
            times_s = {line.strip(): time.perf_counter() - began_s for line in process.stdout}
            _, errors = process.communicate(timeout=_TIMEOUT_S)
        if process.returncode != 0:
            raise BenchError(f"the floor ended with {process.returncode}:\n{errors[-1500:]}")
        return Measurement(metrics={"import_torch_s": times_s["torch"], "weights_read_s": times_s["weights"]})
