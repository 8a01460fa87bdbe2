"""Tries kernels before they are used: a small problem, whose solution plain torch knows."""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.cuda.attention import (
    DecodeKernel,
    DecodeRows,
    PromptKernel,
    Prompts,
    gather_decode,
    gather_prompts,
)
from handler.engine.cuda.sampling import Argmax
from handler.engine.kernels import HeadNorms, Kernels, RmsNorm, TorchKernels
from handler.engine.kv_cache import KvCache

_PROBE_PAGES = 2
_TOLERANCE = 0.02
"""Relative error allowed of a kernel against torch: bfloat16 rounds to 0.004, a wrong key costs far more."""


class Probe:
    """A small problem with random numbers, and checks of kernels against what plain torch makes of it."""

    def __init__(self, config: ModelConfig, block_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        self._generator = torch.Generator().manual_seed(0)
        self._device = device
        self._dtype = dtype
        self._config = msgspec.structs.replace(config, num_layers=1)
        self._windows = {None, *(min(w, block_tokens) for w in config.sliding_windows if w is not None)}
        pool = (2 * _PROBE_PAGES + 1, block_tokens, config.num_kv_heads, config.head_dim)
        self._keys, self._values = self._random(*pool), self._random(*pool)
        self._tables = torch.tensor([[3, 1], [2, 4]], dtype=torch.int32, device=device)
        self._lengths = [block_tokens + 5, 7]
        self._queries = self._random(2 * block_tokens, config.num_heads, config.head_dim)

    def check_decode(self, kernel: DecodeKernel) -> None:
        """Raise what goes wrong."""
        lengths = torch.tensor(self._lengths, dtype=torch.int32, device=self._tables.device)
        rows = DecodeRows(self._tables, lengths)
        for window in self._windows:
            expected = gather_decode(self._queries[:2], self._keys, self._values, rows, window)
            _compare(kernel(self._queries[:2], self._keys, self._values, rows, window), expected)

    def check_prompts(self, kernel: PromptKernel) -> None:
        """Raise what goes wrong."""
        device = self._tables.device
        spans = [(9, self._lengths[0]), (7, self._lengths[1])]
        prompts = Prompts(
            self._tables,
            torch.tensor([0, 9, 16], dtype=torch.int32, device=device),
            torch.tensor(self._lengths, dtype=torch.int32, device=device),
            spans,
        )
        queries = self._queries[:16]
        for window in self._windows:
            expected = gather_prompts(queries, self._keys, self._values, prompts, window)
            _compare(kernel(queries, self._keys, self._values, prompts, window), expected)

    def check_elementwise(self, kernels: Kernels) -> None:
        """Raise what goes wrong."""
        config, rows = self._config, 3
        stream, update = self._random(rows, config.hidden_size), self._random(rows, config.hidden_size)
        norm = RmsNorm(self._random(config.hidden_size), config.rms_norm_eps)
        gate_up = self._random(rows, 2 * config.intermediate_size)
        heads = self._random(rows, config.num_heads + 2 * config.num_kv_heads, config.head_dim)
        rope_rows = self._random(rows, 1, config.head_dim), self._random(rows, 1, config.head_dim)
        query_norm, key_norm = (RmsNorm(self._random(config.head_dim), config.rms_norm_eps) for _ in range(2))
        head_norms = HeadNorms(query_norm, key_norm) if config.qk_norm else None
        slots = torch.tensor([5, 0, 2], device=self._device)

        def results(kernels: Kernels) -> list[Tensor]:
            cache = KvCache(config, 1, 8, self._device, self._dtype)
            queries = kernels.rotate_and_store(heads, head_norms, rope_rows, cache, 0, slots)
            norms = [*kernels.add_norm(stream, None, norm), *kernels.add_norm(stream, update, norm)]
            return [*norms, kernels.silu_mul(gate_up), queries, cache.keys[0], cache.values[0]]

        for found, expected in zip(results(kernels), results(TorchKernels()), strict=True):
            _compare(found, expected)

    def check_argmax(self, argmax: Argmax) -> None:
        """Raise what goes wrong. Which of several equal logits it takes is its own choice."""
        logits = self._random(3, self._config.vocab_size).float()
        chosen = logits.gather(1, argmax(logits)[:, None])
        if not torch.equal(chosen, logits.amax(dim=-1, keepdim=True)):
            raise ArithmeticError("a larger logit than the one it chose is there")

    def _random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._generator).to(self._device, self._dtype)


def _compare(found: Tensor, expected: Tensor) -> None:
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    if not error <= _TOLERANCE:  # NaN too
        raise ArithmeticError(f"it differs from torch by {error:.3g}")
