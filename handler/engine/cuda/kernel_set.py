"""Which kernels a device gets: each is tried on a small problem and compared with plain torch, whatever the versions.

Preferred for decoding: Triton, which splits long contexts; then varlen; then gathering. For prompts: varlen over block
tables; varlen over gathered keys, where torch's knows no block tables; then gathering for torch's own attention. A
kernel that fails or errs is passed over, and the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import msgspec
import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.cuda.attention import DecodeKernel, DecodeRows, PromptKernel, gather_decode, gather_prompts
from handler.engine.cuda.probe import Probe
from handler.engine.cuda.sampling import Argmax
from handler.engine.kernels import Kernels, TorchKernels

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PLAIN_BLOCK_TOKENS = 32
_LONGEST_REASON = 200


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
    for better in (_paged_varlen, _gathered_varlen):
        varlen = better(config, device, dtype, kernels)
        if varlen is not None:
            kernels = varlen
            break
    triton = _triton_kernels(config, device, dtype, kernels)
    return kernels if triton is None else triton


def _paged_varlen(config: ModelConfig, device: torch.device, dtype: torch.dtype, base: KernelSet) -> KernelSet | None:
    """`base` with varlen attention over block tables, and with the pages that it wants."""

    def build() -> KernelSet:
        # Older torch has no varlen module.
        from handler.engine.cuda.varlen import BLOCK_TOKENS, varlen_decode, varlen_prompts  # noqa: PLC0415

        probe = Probe(config, BLOCK_TOKENS, device, dtype)
        probe.check_decode(varlen_decode)
        probe.check_prompts(varlen_prompts)
        return msgspec.structs.replace(
            base, name="varlen", decode=varlen_decode, prompt=varlen_prompts, block_tokens=BLOCK_TOKENS
        )

    return _tried("varlen attention over block tables", build)


def _gathered_varlen(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, base: KernelSet
) -> KernelSet | None:
    """`base` with varlen attention for prompts, whose keys are laid end to end for it."""

    def build() -> KernelSet:
        from handler.engine.cuda.varlen import GatheredVarlen  # noqa: PLC0415

        prompt = GatheredVarlen()
        Probe(config, base.block_tokens, device, dtype).check_prompts(prompt)
        return msgspec.structs.replace(base, name="gathered varlen", prompt=prompt)

    return _tried("varlen attention over gathered keys", build)


def _triton_kernels(config: ModelConfig, device: torch.device, dtype: torch.dtype, base: KernelSet) -> KernelSet | None:
    """`base` with everything that Triton does better."""

    def build() -> KernelSet:
        # Triton comes with torch's CUDA builds only, and takes time to import.
        from handler.engine.cuda.kernels.argmax import argmax  # noqa: PLC0415
        from handler.engine.cuda.kernels.decode import decode_attention  # noqa: PLC0415
        from handler.engine.cuda.kernels.fused import TritonKernels  # noqa: PLC0415

        def decode(queries: Tensor, keys: Tensor, values: Tensor, rows: DecodeRows, window: int | None) -> Tensor:
            return decode_attention(queries, keys, values, rows.tables, rows.lengths, window)

        probe = Probe(config, base.block_tokens, device, dtype)
        probe.check_decode(decode)
        probe.check_elementwise(TritonKernels())
        probe.check_argmax(argmax)
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


def torch_argmax(logits: Tensor) -> Tensor:
    """The likeliest token of each row of `logits` (R, vocab_size)."""
    return logits.argmax(dim=-1)
