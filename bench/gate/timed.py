"""Micro paths by time, where instructions cannot be counted: `python -m bench.gate.timed SPEC ANSWER`.

The answer has, for each path, the shortest of some batches of calls: what disturbs a path only ever adds to its time.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
import time
from pathlib import Path

import msgspec

from bench.micro.paths import PATHS

_WARM_CALLS = 100
_BATCHES = 15
_BATCH_S = 0.01


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """Which paths, and on which processor."""

    paths: tuple[str, ...]
    core: int


def main() -> None:
    """Time each path."""
    spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Spec)
    os.sched_setaffinity(0, {spec.core})
    Path(sys.argv[2]).write_bytes(msgspec.json.encode({name: _seconds_of_a_call(name) for name in spec.paths}))


def _seconds_of_a_call(name: str) -> float:
    path = PATHS[name]()
    began_s = time.perf_counter()
    for _ in itertools.repeat(None, _WARM_CALLS):
        path()
    calls = max(1, int(_BATCH_S / ((time.perf_counter() - began_s) / _WARM_CALLS)))
    gc.collect()
    gc.disable()
    shortest_s = float("inf")
    for _ in range(_BATCHES):
        began_s = time.perf_counter()
        for _ in itertools.repeat(None, calls):
            path()
        shortest_s = min(shortest_s, time.perf_counter() - began_s)
    gc.enable()
    return shortest_s / calls


if __name__ == "__main__":
    main()
