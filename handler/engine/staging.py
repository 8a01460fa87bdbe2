"""Takes tensors of mapped files to a device: on CUDA through pinned memory, a chunk on its way while the next is read.

From memory that may be paged out the driver copies through a buffer of its own and holds the caller up meanwhile; from
pinned memory the device fetches a chunk by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Move = Callable[[Tensor], Tensor]
"""The tensor on the device, with the same shape and type; what is there already is not copied."""

_CHUNK_BYTES = 32 << 20
"""Of each buffer: many, so that what a copy costs beside the bytes is little of it. Not measured yet."""

_NUM_BUFFERS = 2


def move_to(device: torch.device) -> Move:
    """How tensors get to a device. Keep it only as long as there are some: it holds pinned memory."""
    if device.type != "cuda":
        return lambda tensor: tensor.to(device)
    return Staging(device).move


class Staging:
    """Belongs to the thread that loads, and to its current stream.

    Args:
        device: where tensors go. Any but CUDA's is for tests: nothing is pinned, and each copy waits for itself.
        chunk_bytes: size of each buffer.
    """

    def __init__(self, device: torch.device, chunk_bytes: int = _CHUNK_BYTES) -> None:
        is_cuda = device.type == "cuda"
        self._device = device
        buffers = [torch.empty(chunk_bytes, dtype=torch.uint8, pin_memory=is_cuda) for _ in range(_NUM_BUFFERS)]
        self._slots = itertools.cycle((buffer, torch.cuda.Event() if is_cuda else None) for buffer in buffers)  # type: ignore[no-untyped-call]
        self._chunk_bytes = chunk_bytes

    def move(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, complete for whatever the current stream does next."""
        if tensor.device.type == self._device.type == "cuda":
            return tensor.to(self._device)
        moved = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._device)
        parts, places = (torch.split(_bytes_of(whole), self._chunk_bytes) for whole in (tensor.contiguous(), moved))
        for part, place in zip(parts, places, strict=True):
            buffer, fetched = next(self._slots)
            if fetched is not None:
                fetched.synchronize()  # what was in it before
            filled = buffer[: part.numel()].copy_(part)
            place.copy_(filled, non_blocking=True)
            if fetched is not None:
                fetched.record(torch.cuda.current_stream(self._device))
        return moved


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.view(-1).view(torch.uint8)
