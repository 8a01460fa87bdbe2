"""A clock on the stages of a step: schedule, forward, sample, output, and the wait for the device.

It wraps the methods that are those stages, from outside, and puts them back; the engine has no hooks for it. Time in a
stage inside a stage counts for the inner one only. On CUDA a stage's time is the host's: kernels run on while the next
stage begins, and what the host waits for them is the stage `wait`.
"""

from __future__ import annotations

import functools
import importlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from bench.errors import BenchError

STAGES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "schedule": (
        ("handler.engine.scheduler", "Scheduler", "schedule"),
        ("handler.engine.scheduler", "Scheduler", "advance"),
    ),
    "forward": (
        ("handler.engine.model", "Decoder", "forward"),
        ("handler.engine.model", "Decoder", "logits"),
        ("handler.engine.native.decoder", "NativeDecoder", "forward"),
    ),
    "sample": (
        ("handler.engine.sampler", "Sampler", "sample_chunks"),
        ("handler.engine.sampler", "Sampler", "sample"),
    ),
    "output": (("handler.engine.output", "SequenceOutput", "accept"),),
    "wait": (
        ("torch.cuda", "Event", "synchronize"),
        ("torch.cuda", "Stream", "synchronize"),
    ),
}


class StageClock:
    """Counts while its `with` block runs. One thread only."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._open: list[float] = []  # time that stages inside each open stage took
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> StageClock:
        for stage, places in STAGES.items():
            for module, owner, method in places:
                self._wrap(stage, getattr(importlib.import_module(module), owner, None), method)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._undo:
            self._undo.pop()()

    def _wrap(self, stage: str, owner: Any, method: str) -> None:
        original = getattr(owner, method, None)
        if original is None:
            self.__exit__(None, None, None)
            raise BenchError(f"the stage {stage} is {method} of a class that has no such method any more")
        had_own = method in vars(owner)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began_s = time.perf_counter()
            self._open.append(0.0)
            try:
                return original(*args, **kwargs)
            finally:
                total_s = time.perf_counter() - began_s
                self.seconds[stage] += total_s - self._open.pop()
                if self._open:
                    self._open[-1] += total_s

        setattr(owner, method, timed)
        self._undo.append(lambda: setattr(owner, method, original) if had_own else delattr(owner, method))
