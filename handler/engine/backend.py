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
from handler.engine.cuda.graphs import CudaCapture
from handler.engine.cuda.kernel_set import choose_kernels
from handler.engine.cuda.runner import CudaRunner
from handler.engine.kernels import Kernels
from handler.engine.kv_cache import KvCache, free_memory_bytes, plan_blocks
from handler.engine.loader import load_decoder, load_int8_decoder
from handler.engine.model import Decoder
from handler.engine.native.decoder import NativeDecoder
from handler.engine.native.library import BLOCK_TOKENS as NATIVE_BLOCK_TOKENS
from handler.engine.native.runner import NativeRunner
from handler.engine.options import EngineOptions
from handler.engine.precision import Precision
from handler.engine.quantised import quantised_specs, quantised_tensors
from handler.engine.runner import TorchRunner
from handler.engine.sampler import Sampler
from handler.engine.step import Runner
from handler.engine.weights.quantised import read_quantised
from handler.engine.weights.safetensors import check_headers, iter_tensors
from handler.errors import ConfigurationError

logger = logging.getLogger(__name__)

TORCH_BLOCK_TOKENS = 32
KV_CACHE_FRACTIONS = {"cpu": 0.25, "cuda": 0.8}
"""Where the settings leave it open. A GPU's memory is the engine's, up to what a step needs; the host's is not."""
NATIVE_SPECULATION_TOKENS = 5
"""A few rows more cost a step little while it waits for the weights (docs/performance.md). Elsewhere: not measured."""


class Backend(msgspec.Struct, frozen=True):
    """A runner, and how the scheduler has to cut sequences for it.

    `tile` and `block_size` are in tokens; `speculation_tokens` is the longest draft where the settings leave it open.
    """

    runner: Runner
    num_blocks: int
    block_size: int
    tile: int
    kv_cache_dtype: torch.dtype
    speculation_tokens: int = 0


class BackendBuilder(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend is made of."""

    directory: Path
    architecture: Architecture
    precision: Precision
    options: EngineOptions
    max_model_len: int
    sampler: Sampler
    timeline: BootTimeline

    @torch.inference_mode()
    def build(self) -> Backend:
        """The fastest backend that this machine has for the model.

        Raises:
            ConfigurationError: the KV cache does not fit into memory, or the settings do not suit the kernels.
            SnapshotError: the snapshot is damaged or not supported.
        """
        if self.precision.device.type == "cuda":
            torch.cuda.set_device(self.precision.device)
            # Where torch's own attention computes prompts, cuDNN's would make a plan for each new length of one.
            torch.backends.cuda.enable_cudnn_sdp(False)
        if not isinstance(self.architecture, OwnArchitecture):
            with self.timeline.phase("weights"):
                tensors = iter_tensors(self.directory)
                decoder = self.architecture.load(tensors, self.precision, self.max_model_len)
            return self._torch(decoder)
        config = self.architecture.shape
        if self.precision.device.type == "cuda":
            return self._cuda(config)
        if self.precision.quantization == "int8":
            if self.precision.dtype == torch.float32 and self.architecture.has_kernels:
                return self._native(config)
            logger.warning("no int8 kernels for this machine, model or dtype (see README): torch computes, far slower")
        elif self.options.quantization == "auto" and self.options.dtype == "auto":
            logger.warning("no int8 kernels for this machine or model (see README): in float32, slower")
        return self._torch(self._decoder(config, None))

    def _native(self, config: ModelConfig) -> Backend:
        max_rows = self.options.prefill_chunk_tokens + self.options.max_batch_size
        if max_rows > (most := NativeDecoder.most_rows(config)):
            raise ConfigurationError(
                "PREFILL_CHUNK_TOKENS",
                f"with MAX_BATCH_SIZE {max_rows}, but the int8 kernels take {most} rows in a step",
            )
        with self.timeline.phase("weights"):
            quantised = self._quantised(config)
        with self.timeline.phase("kv_cache"):
            num_blocks = self._plan(NATIVE_BLOCK_TOKENS, torch.float16)
            decoder = NativeDecoder(
                config,
                quantised,
                num_blocks=num_blocks,
                max_positions=self.max_model_len,
                max_rows=max_rows,
                threads=torch.get_num_threads(),
            )
        # All that is left to torch is choosing tokens: waking its threads would take longer, and they spin afterwards.
        torch.set_num_threads(1)
        runner = NativeRunner(decoder, self.sampler)
        # Its numbers do not depend on how a prompt is cut: prefixes are shared by the block.
        return Backend(
            runner, num_blocks, NATIVE_BLOCK_TOKENS, NATIVE_BLOCK_TOKENS, torch.float16, NATIVE_SPECULATION_TOKENS
        )

    def _cuda(self, config: ModelConfig) -> Backend:
        device, dtype = self.precision.device, self.precision.dtype
        with self.timeline.phase("kernels"):
            kernels = choose_kernels(config, device, dtype)
        tile = tile_tokens(kernels.block_tokens, self.options)
        decoder = self._decoder(config, kernels.elementwise)
        num_blocks, cache = self._cache(kernels.block_tokens)
        runner = CudaRunner(
            decoder,
            cache,
            kernels,
            self.sampler,
            CudaCapture(device),
            device=device,
            max_batch_size=self.options.max_batch_size,
            max_blocks=-(-self.max_model_len // kernels.block_tokens),
        )
        return Backend(runner, num_blocks, kernels.block_tokens, tile, dtype)

    def _torch(self, decoder: AnyDecoder) -> Backend:
        device, dtype = self.precision.device, self.precision.dtype
        num_blocks, cache = self._cache(TORCH_BLOCK_TOKENS)
        attention = PagedAttention(self.architecture.shape.sliding_windows, TORCH_BLOCK_TOKENS, device, dtype)
        runner = TorchRunner(decoder, cache, attention, self.sampler, device)
        return Backend(runner, num_blocks, TORCH_BLOCK_TOKENS, TILE, dtype)

    def _decoder(self, config: ModelConfig, kernels: Kernels | None) -> Decoder:
        with self.timeline.phase("weights"):
            if self.precision.quantization == "int8":
                quantised = self._quantised(config)
                return load_int8_decoder(config, quantised, self.precision, self.max_model_len, kernels)
            tensors = iter_tensors(self.directory)
            return load_decoder(config, tensors, self.precision, self.max_model_len, kernels)

    def _quantised(self, config: ModelConfig) -> Mapping[str, Tensor]:
        quantised = read_quantised(self.directory, quantised_specs(config))
        if quantised is not None:
            check_headers(self.directory)  # in 0.5 ms: the weights that these were made of may be needed next time
            return quantised
        logger.warning("the snapshot holds no int8 weights: making them at each start; `pilotlight prepare` adds them")
        return dict(quantised_tensors(config, iter_tensors(self.directory), self.precision.device))

    def _cache(self, block_size: int) -> tuple[int, KvCache]:
        with self.timeline.phase("kv_cache"):
            num_blocks = self._plan(block_size, self.precision.dtype)
            shape, device, dtype = self.architecture.shape, self.precision.device, self.precision.dtype
            return num_blocks, KvCache(shape, num_blocks, block_size, device, dtype)

    def _plan(self, block_size: int, dtype: torch.dtype) -> int:
        fraction, device = self.options.kv_cache_fraction, self.precision.device
        return plan_blocks(
            self.architecture.shape,
            max_model_len=self.max_model_len,
            max_batch_size=self.options.max_batch_size,
            block_size=block_size,
            free_bytes=free_memory_bytes(device),
            fraction=KV_CACHE_FRACTIONS[device.type] if fraction is None else fraction,
            dtype=dtype,
        )


def tile_tokens(block_tokens: int, options: EngineOptions) -> int:
    """Rows of a prompt tile: whole blocks, no fewer than `TILE`, no more than a chunk."""
    tile = -(-TILE // block_tokens) * block_tokens
    if options.prefill_chunk_tokens < tile:
        raise ConfigurationError(
            "PREFILL_CHUNK_TOKENS", f"{options.prefill_chunk_tokens} is less than the {tile} tokens of a tile"
        )
    return tile
