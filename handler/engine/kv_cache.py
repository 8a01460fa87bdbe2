"""The paged KV cache: the tensors that hold keys and values, and the plan of how many blocks fit into memory.

Owned by the runner. Which sequence has which block is the business of `blocks.py`.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

import psutil
import torch
from torch import Tensor

from handler.engine.config import ModelShape
from handler.errors import ConfigurationError


class KvCache:
    """Keys and values of all layers in blocks of `block_size` tokens.

    `keys[layer]` and `values[layer]` are (num_blocks, block_size, num_kv_heads, head_dim). Block 0 belongs to no
    sequence: padding points at it, and its content is always masked.
    """

    def __init__(
        self, config: ModelShape, num_blocks: int, block_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (num_blocks, block_size, config.num_kv_heads, config.head_dim)
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.num_kv_heads = config.num_kv_heads
        self.keys = [_zeros(shape, device, dtype) for _ in range(config.num_layers)]
        self.values = [_zeros(shape, device, dtype) for _ in range(config.num_layers)]

    def write(self, layer: int, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Store `keys` and `values` (T, num_kv_heads, head_dim) at `slots` (T,): block * block_size + offset."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, keys)
        self.values[layer].flatten(0, 1).index_copy_(0, slots, values)

    def clear(self, blocks: list[int]) -> None:
        """Make blocks as they were at first."""
        indices = torch.tensor(blocks, dtype=torch.int64, device=self.keys[0].device)  # there may be none
        for tensor in (*self.keys, *self.values):
            tensor.index_fill_(0, indices, 0)

    def gather(self, layer: int, block_tables: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `block_tables` (N, P): two tensors (N, num_kv_heads, P * block_size, head_dim)."""
        n, pages = block_tables.shape
        flat = block_tables.flatten()
        gathered = (cache[layer].index_select(0, flat) for cache in (self.keys, self.values))
        keys, values = (part.view(n, pages * self.block_size, *part.shape[2:]).transpose(1, 2) for part in gathered)
        return keys, values


def _zeros(shape: tuple[int, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Zeros, because a masked NaN is still a NaN. On the CPU from the kernel, which takes memory on first use only."""
    if device.type != "cpu":
        return torch.zeros(shape, device=device, dtype=dtype)
    pages = mmap.mmap(-1, math.prod(shape) * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def plan_blocks(
    config: ModelShape,
    *,
    max_model_len: int,
    max_batch_size: int,
    block_size: int,
    free_bytes: int,
    fraction: float,
    dtype: torch.dtype,
) -> int:
    """How many blocks to allocate: what the full batch could ever fill, or what the memory allows, if less.

    Raises:
        ConfigurationError: not even one sequence of `max_model_len` tokens fits.
    """
    block_bytes = 2 * config.num_layers * block_size * config.num_kv_heads * config.head_dim * dtype.itemsize
    per_sequence = -(-max_model_len // block_size)
    affordable = int(free_bytes * fraction) // block_bytes - 1
    if affordable < per_sequence:
        raise ConfigurationError(
            "MAX_MODEL_LEN",
            f"{max_model_len} tokens need {per_sequence * block_bytes / 2**20:.0f} MiB of KV cache, but "
            f"KV_CACHE_FRACTION={fraction:g} of {free_bytes / 2**20:.0f} MiB free memory "
            f"holds {max(affordable, 0) * block_size} tokens",
        )
    return 1 + min(affordable, per_sequence * max_batch_size)


def free_memory_bytes(device: torch.device) -> int:
    """Memory that can still be taken on `device`; on the CPU the limit of the control group counts as well."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what loading left in torch's allocator would count as taken
        return torch.cuda.mem_get_info(device)[0]
    available = psutil.virtual_memory().available
    limited = control_group_free_bytes(Path("/sys/fs/cgroup"))
    return available if limited is None else min(available, limited)


def control_group_free_bytes(directory: Path) -> int | None:
    """What a control group (version 2) may still take, None without a limit. File pages not in use do not count.

    They count as used in `memory.current`, but give way: a model that was just downloaded fills them.
    """
    try:
        limit = int((directory / "memory.max").read_text())
        used = int((directory / "memory.current").read_text())
        lines = (directory / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):  # no control group, or "max": no limit
        return None
    reclaimable = sum(int(value) for key, value in map(str.split, lines) if key == "inactive_file")
    return limit - max(0, used - reclaimable)
