"""The way between host and device: what goes there, what comes back, and what runs beside.

On the CPU, where the runner is tested, everything happens at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor


class Link:
    """Copies that do not make the host wait. Pinned memory comes from torch's pool, which knows what is in flight."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._side_stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def stage(self, words: bytearray) -> Tensor:
        """`words` as int32 in host memory that the device can read."""
        staged = torch.frombuffer(words, dtype=torch.int32)
        return staged if self._side_stream is None else staged.pin_memory()

    def send(self, words: bytearray) -> Tensor:
        """`words` as int32 in new memory of the device."""
        return self.stage(words).to(self.device, non_blocking=True)

    def fetch(self, values: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """A copy of `values` on the host, and the function that returns once it is there."""
        if self._side_stream is None:
            return values.clone(), _already
        copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        copy.copy_(values, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return copy, event.synchronize

    def beside(self) -> AbstractContextManager[object]:
        """Work inside does not wait for steps launched since; what it reads must be finished."""
        return contextlib.nullcontext() if self._side_stream is None else torch.cuda.stream(self._side_stream)


def _already() -> None:
    """Nothing to wait for."""
