"""Steps of one shape, replayed with one launch once they were captured.

The first uses of a shape run eagerly, which also compiles and loads what they need; a shape that keeps coming is
captured, in a moment without work if there is one. Owned by the engine thread of one device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch

logger = logging.getLogger(__name__)

_EAGER_USES = 8
"""Steps of a shape that run eagerly before one of them stops to capture it."""

T = TypeVar("T")


class Capture(Protocol):
    """Turns a computation into one that repeats it.

    It reads and writes tensors whose places never change; what it returns may be overwritten by the next step.
    """

    def __call__(self, compute: Callable[[], T], /) -> Callable[[], T]:
        """Capture without running; the result runs it on the same memory."""


class CudaCapture:
    """Captures CUDA graphs that share one memory pool: they run one after the other, never side by side."""

    def __init__(self, device: torch.device) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # torch's own for this belongs to one device of the process.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, compute: Callable[[], T]) -> Callable[[], T]:
        """As `Capture`. Another engine's thread may use its own device meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = compute()

        def replay() -> T:
            graph.replay()
            return result

        return replay


class LazyGraphs(Generic[T]):
    """Runs computations by key, captured or not."""

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._captured: dict[Hashable, Callable[[], T]] = {}
        self._eager: dict[Hashable, tuple[int, Callable[[], T]]] = {}  # uses so far

    @property
    def num_captured(self) -> int:
        """Shapes that are replayed."""
        return len(self._captured)

    def run(self, key: Hashable, compute: Callable[[], T]) -> T:
        """Do `compute`, which is always the same for a key."""
        if key not in self._captured:
            uses = self._eager.get(key, (0, compute))[0]
            if uses < _EAGER_USES:
                self._eager[key] = (uses + 1, compute)
                return compute()
            self._capture_now(key)
        return self._captured[key]()

    def idle(self) -> None:
        """Capture one shape that was used and is not captured yet."""
        if self._eager:
            self._capture_now(next(iter(self._eager)))

    def _capture_now(self, key: Hashable) -> None:
        _, compute = self._eager.pop(key)
        try:
            self._captured[key] = self._capture(compute)
        except RuntimeError as error:
            logger.warning("steps of %s stay without a graph: %s", key, error)
            self._captured[key] = compute
