"""What the memory gives to a plain loop, measured in the same run: the roofline of decoding.

A decode step must read every weight once and does little arithmetic with each, so bytes over bandwidth is the time
that no implementation beats (Williams et al. 2009, "Roofline").
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec
import torch

_PASSES = 4
_SAMPLES = 5


class Bandwidth(msgspec.Struct, frozen=True):
    """Bytes per second of each sample. A copy counts the bytes that it reads and those that it writes."""

    read_bytes_per_s: tuple[float, ...]
    copy_bytes_per_s: tuple[float, ...]

    @property
    def best_bytes_per_s(self) -> float:
        """The most that was seen: the roofline."""
        return max(*self.read_bytes_per_s, *self.copy_bytes_per_s)


def measure_bandwidth(device: torch.device, num_bytes: int) -> Bandwidth:
    """Sum and copy a buffer of `num_bytes`, which must be several times the caches."""
    source = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    return Bandwidth(
        read_bytes_per_s=_rates(source.sum, num_bytes, device),
        copy_bytes_per_s=_rates(lambda: target.copy_(source), 2 * num_bytes, device),
    )


def _rates(work: Callable[[], object], num_bytes: int, device: torch.device) -> tuple[float, ...]:
    work()
    rates = []
    for _ in range(_SAMPLES):
        _wait(device)
        began_s = time.perf_counter()
        for _ in range(_PASSES):
            work()
        _wait(device)
        rates.append(_PASSES * num_bytes / (time.perf_counter() - began_s))
    return tuple(rates)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
