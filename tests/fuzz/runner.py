"""Runs a target on many inputs and watches what becomes of it: errors, time, memory."""

from __future__ import annotations

import collections
import contextlib
import faulthandler
import gc
import hashlib
import random
import re
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

import msgspec
import psutil

from tests.fuzz.mutation import Mutate

HANG_S = 10.0
"""An input that takes longer is a defect."""
_STUCK_S = 300.0
_WATCHED_TOGETHER = 500
"""So many inputs that do not end in that time, and cannot be interrupted, end the program with a traceback."""
_MAX_GROWTH_BYTES = 48 << 20
_WARM_UP = 0.25  # of the inputs: caches fill, and the allocator finds its size


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Something that takes what comes from outside.

    Attributes:
        name: of the target.
        share: of all inputs.
        seeds: good inputs.
        mutate: makes bad ones of them.
        run: takes an input, and says what became of it in a few words, the same for the same kind of end.
        expected: how it may refuse by raising.
    """

    name: str
    share: int
    seeds: list[bytes]
    mutate: Mutate
    run: Callable[[bytes], str]
    expected: tuple[type[BaseException], ...] = ()


class Outcome(msgspec.Struct, kw_only=True):
    """What came of one target."""

    name: str
    num_inputs: int = 0
    num_taken: int = 0
    kinds: collections.Counter[str]
    slowest_s: float = 0.0
    growth_bytes: int = 0
    duration_s: float = 0.0
    defects: dict[str, bytes] = {}


class HangError(BaseException):
    """An input took longer than HANG_S."""


def run_target(target: Target, num_inputs: int, seed: int, defects: Path | None = None) -> Outcome:
    """Feed it; inputs that end in an unexpected way are kept below `defects`."""
    rng = random.Random(f"{target.name}-{seed}")
    outcome = Outcome(name=target.name, kinds=collections.Counter(), defects={})
    process = psutil.Process()
    begin_s, warm_bytes = time.monotonic(), 0
    with _interruptible():
        for number in range(num_inputs):
            if number % _WATCHED_TOGETHER == 0:  # each time it makes a thread
                faulthandler.dump_traceback_later(_STUCK_S, exit=True)
            if number == int(num_inputs * _WARM_UP):
                gc.collect()
                warm_bytes = process.memory_info().rss
            _feed(target, target.mutate(rng, rng.choice(target.seeds)), outcome)
    gc.collect()
    outcome.growth_bytes = process.memory_info().rss - warm_bytes
    outcome.duration_s = time.monotonic() - begin_s
    if outcome.growth_bytes > _MAX_GROWTH_BYTES:
        outcome.defects[f"memory grew by {outcome.growth_bytes >> 20} MiB"] = b""
    if defects is not None:
        for what, data in outcome.defects.items():
            defects.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256(data).hexdigest()[:12]
            (defects / f"{target.name}-{digest}").write_bytes(data)
            (defects / f"{target.name}-{digest}.txt").write_text(what)
    return outcome


def _feed(target: Target, data: bytes, outcome: Outcome) -> None:
    signal.setitimer(signal.ITIMER_REAL, HANG_S)
    begin_s = time.perf_counter()
    try:
        kind = target.run(data)
        outcome.num_taken += kind.startswith("ok")
    except target.expected as error:
        kind = f"{type(error).__name__}: {_without_details(str(error))}"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  (also what Rust panics with)
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"DEFECT {type(error).__name__} in {Path(where.filename).name}:{where.lineno}"
        outcome.defects.setdefault(f"{kind}: {_without_details(str(error))}", data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    outcome.slowest_s = max(outcome.slowest_s, time.perf_counter() - begin_s)
    outcome.num_inputs += 1
    outcome.kinds[kind] += 1


def _without_details(message: str) -> str:
    """The kind of an error, without what stood in the input."""
    message = re.sub(r"/\S*/", "", message)
    message = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`", "_", message)
    return re.sub(r"[0-9]+", "0", message)[:110]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    def interrupt(_: int, frame: FrameType | None) -> NoReturn:
        del frame
        raise HangError(f"longer than {HANG_S:g} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
