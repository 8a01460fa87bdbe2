"""Which kernels a device gets: each is tried on a small problem and compared with plain torch, whatever the versions.

Preferred for decoding: Triton, which splits long contexts; then varlen; then gathering. For prompts: varlen, then
gathering. A kernel that fails or errs is passed over, and the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

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
from handler.engine.kernels import Kernels, TorchKernels

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PLAIN_BLOCK_TOKENS = 32
_PROBE_PAGES = 2
_LONGEST_REASON = 200
_TOLERANCE = 0.02
"""Relative error allowed of a kernel against torch: bfloat16 rounds to 0.004, a wrong key costs far more."""


class KernelSet(msgspec.Struct, frozen=True):
    """The kernels of one device for one model. `name` says which, `block_tokens` is the page size they want."""

    name: str
    block_tokens: int
    decode: DecodeKernel
    prompt: PromptKernel
    elementwise: Kernels
    argmax: Argmax


def plain_kernels() -> KernelSet:
    """Torch's own operations, for any device."""
    return KernelSet("torch", _PLAIN_BLOCK_TOKENS, gather_decode, gather_prompts, TorchKernels(), torch_argmax)


def choose_kernels(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> KernelSet:
    """The best kernels that work on `device`."""
    kernels = plain_kernels()
    varlen = _varlen_kernels(config, device, dtype)
    if varlen is not None:
        decode, prompt, block_tokens = varlen
        kernels = msgspec.structs.replace(
            kernels, name="varlen", decode=decode, prompt=prompt, block_tokens=block_tokens
        )
    triton = _triton_kernels(config, device, dtype, kernels)
    return kernels if triton is None else triton


def _varlen_kernels(
    config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> tuple[DecodeKernel, PromptKernel, int] | None:
    def build() -> tuple[DecodeKernel, PromptKernel, int]:
        from handler.engine.cuda.varlen import (  # noqa: PLC0415  (older torch has no such module)
            BLOCK_TOKENS,
            varlen_decode,
            varlen_prompts,
        )

        probe = _Probe(config, BLOCK_TOKENS, device, dtype)
        probe.check_decode(varlen_decode)
        probe.check_prompts(varlen_prompts)
        return varlen_decode, varlen_prompts, BLOCK_TOKENS

    return _tried("varlen attention", build)


def _triton_kernels(config: ModelConfig, device: torch.device, dtype: torch.dtype, base: KernelSet) -> KernelSet | None:
    """`base` with everything that Triton does better."""

    def build() -> KernelSet:
        # Triton comes with torch's CUDA builds only, and takes time to import.
        from handler.engine.cuda.kernels.argmax import argmax  # noqa: PLC0415
        from handler.engine.cuda.kernels.decode import decode_attention  # noqa: PLC0415
        from handler.engine.cuda.kernels.fused import TritonKernels  # noqa: PLC0415

        def decode(queries: Tensor, keys: Tensor, values: Tensor, rows: DecodeRows, window: int | None) -> Tensor:
            return decode_attention(queries, keys, values, rows.tables, rows.lengths, window)

        _Probe(config, base.block_tokens, device, dtype).check_decode(decode)
        return msgspec.structs.replace(
            base, name=f"triton, {base.name}", decode=decode, elementwise=TritonKernels(), argmax=argmax
        )

    return _tried("Triton", build)


def _tried(name: str, build: Callable[[], T]) -> T | None:
    try:
        return build()
    except Exception as error:  # noqa: BLE001  (whatever keeps a kernel from working, another does its job)
        logger.warning("%s is not used: %s: %s", name, type(error).__name__, str(error)[:_LONGEST_REASON])
        return None


class _Probe:
    """Random pages, and queries whose attention is known from plain torch."""

    def __init__(self, config: ModelConfig, block_tokens: int, device: torch.device, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(device, dtype)

        self._windows = {None, *(min(w, block_tokens) for w in config.sliding_windows if w is not None)}
        pool = (2 * _PROBE_PAGES + 1, block_tokens, config.num_kv_heads, config.head_dim)
        self._keys, self._values = random(*pool), random(*pool)
        self._tables = torch.tensor([[3, 1], [2, 4]], dtype=torch.int32, device=device)
        self._lengths = [block_tokens + 5, 7]
        self._queries = random(2 * block_tokens, config.num_heads, config.head_dim)

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


def _compare(found: Tensor, expected: Tensor) -> None:
    error = float((found.float() - expected.float()).norm() / expected.float().norm())
    if not error <= _TOLERANCE:  # NaN too
        raise ArithmeticError(f"it differs from torch by {error:.3g}")


def torch_argmax(logits: Tensor) -> Tensor:
    """The likeliest token of each row of `logits` (R, vocab_size)."""
    return logits.argmax(dim=-1)
