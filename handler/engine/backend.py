"""Chooses what computes the steps of a model, and gives it weights and a KV cache. Runs once, at boot."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from handler.boot import BootTimeline
from handler.engine.architecture import AnyDecoder, Architecture, OwnArchitecture
from handler.engine.attention import TILE, PagedAttention
from handler.engine.config import ModelConfig
from handler.engine.kv_cache import KvCache, free_memory_bytes, plan_blocks
from handler.engine.loader import load_int8_decoder
from handler.engine.native.decoder import NativeDecoder
from handler.engine.native.library import BLOCK_TOKENS as NATIVE_BLOCK_TOKENS
from handler.engine.native.runner import NativeRunner
from handler.engine.precision import Precision
from handler.engine.quantised import quantised_specs, quantised_tensors
from handler.engine.runner import TorchRunner
from handler.engine.sampler import Sampler
from handler.engine.types import EngineOptions, Runner
from handler.engine.weights.quantised import read_quantised
from handler.engine.weights.safetensors import iter_tensors

logger = logging.getLogger(__name__)

TORCH_BLOCK_TOKENS = 32


class Backend(msgspec.Struct, frozen=True):
    """A runner, and how the scheduler has to cut sequences for it. `tile` and `block_size` are in tokens."""

    runner: Runner
    num_blocks: int
    block_size: int
    tile: int
    kv_cache_dtype: torch.dtype


def build_backend(
    directory: Path,
    architecture: Architecture,
    precision: Precision,
    options: EngineOptions,
    *,
    max_model_len: int,
    sampler: Sampler,
    timeline: BootTimeline,
) -> Backend:
    """The fastest backend that this machine has for the model.

    Raises:
        ConfigurationError: the KV cache does not fit into memory.
        SnapshotError: the snapshot is damaged or not supported.
    """
    shape = architecture.shape

    def plan(block_size: int, dtype: torch.dtype) -> int:
        return plan_blocks(
            shape,
            max_model_len=max_model_len,
            max_batch_size=options.max_batch_size,
            block_size=block_size,
            free_bytes=free_memory_bytes(precision.device),
            fraction=options.kv_cache_fraction,
            dtype=dtype,
        )

    def torch_backend(decoder: AnyDecoder) -> Backend:
        with timeline.phase("kv_cache"):
            num_blocks = plan(TORCH_BLOCK_TOKENS, precision.dtype)
            cache = KvCache(shape, num_blocks, TORCH_BLOCK_TOKENS, precision.device, precision.dtype)
        attention = PagedAttention(shape.sliding_windows, TORCH_BLOCK_TOKENS, precision.device, precision.dtype)
        runner = TorchRunner(decoder, cache, attention, sampler, precision.device)
        return Backend(runner, num_blocks, TORCH_BLOCK_TOKENS, TILE, precision.dtype)

    def native_backend(config: ModelConfig, quantised: Mapping[str, Tensor]) -> Backend:
        with timeline.phase("kv_cache"):
            num_blocks = plan(NATIVE_BLOCK_TOKENS, torch.float16)
            decoder = NativeDecoder(
                config,
                quantised,
                num_blocks=num_blocks,
                max_positions=max_model_len,
                max_rows=options.prefill_chunk_tokens + options.max_batch_size,
                threads=torch.get_num_threads(),
            )
        # Its numbers do not depend on how a prompt is cut: prefixes are shared by the block.
        runner = NativeRunner(decoder, sampler)
        return Backend(runner, num_blocks, NATIVE_BLOCK_TOKENS, NATIVE_BLOCK_TOKENS, torch.float16)

    if precision.quantization == "none" or not isinstance(architecture, OwnArchitecture):
        with timeline.phase("weights"):
            decoder = architecture.load(iter_tensors(directory), precision, max_model_len)
        return torch_backend(decoder)
    with timeline.phase("weights"):
        quantised = _quantised(directory, architecture.shape)
    if NativeDecoder.fits(architecture.shape):
        return native_backend(architecture.shape, quantised)
    logger.warning("no int8 kernels for this model or machine: torch computes, several times slower (see README)")
    with timeline.phase("convert_weights"):
        decoder = load_int8_decoder(architecture.shape, quantised, precision, max_model_len)
    return torch_backend(decoder)


def _quantised(directory: Path, config: ModelConfig) -> Mapping[str, Tensor]:
    quantised = read_quantised(directory, quantised_specs(config))
    if quantised is None:
        logger.warning("the snapshot holds no int8 weights: making them at each start; `pilotlight prepare` adds them")
        quantised = dict(quantised_tensors(config, iter_tensors(directory)))
    return quantised
