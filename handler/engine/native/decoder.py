"""The int8 decoder on the CPU: hands the quantised tensors, the cache and the rows of a step to the compiled kernels.

Owns the memory that the kernels see. Owned by the engine thread.
"""

from __future__ import annotations

import ctypes
import mmap
import weakref
from array import array
from collections.abc import Mapping

import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.native import library as native
from handler.engine.quantised import digits_of
from handler.engine.rope import inverse_frequencies
from handler.errors import EngineError

Span = tuple[int, int, list[int]]
"""Rows of one sequence: how many, the position of the first, and the sequence's block table."""


class NativeDecoder:
    """Computes whole steps in C.

    Args:
        config: the shape; `fits` has said that the kernels can compute it.
        quantised: all that `quantised_tensors` yields.
        num_blocks: of the KV cache.
        max_positions: the longest sequence.
        max_rows: of a step.
        threads: of the team that computes a step, the caller's included.
        kernels: which to use, where it is not to be the fastest that this CPU can run.
    """

    def __init__(
        self,
        config: ModelConfig,
        quantised: Mapping[str, Tensor],
        *,
        num_blocks: int,
        max_positions: int,
        max_rows: int,
        threads: int,
        kernels: native.Kernels | None = None,
    ) -> None:
        kernels = kernels or native.load_kernels()
        assert kernels is not None, "`fits` was not asked"
        self._step_function = kernels.decoder_step
        self._keep: list[object] = []  # what the kernels have addresses of
        self._quantised = quantised
        self._vocab_size = config.vocab_size
        self._logits = torch.empty(0, config.vocab_size)
        self._max_rows = max_rows
        layers = (native.Layer * config.num_layers)()
        for index, layer in enumerate(layers):
            self._fill_layer(layer, index, config, num_blocks)
        cos, sin = _rope_tables(config, max_positions)
        model = native.Model(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            down_digits=digits_of("down"),
            rms_norm_eps=config.rms_norm_eps,
            embedding=self._address(quantised["embedding"]),
            cos=self._address(cos),
            sin=self._address(sin),
            layers=layers,
            head=self._linear("head", config.hidden_size),
        )
        self._keep.append(model)
        handle = kernels.decoder_create(ctypes.byref(model), threads, max_rows)
        if not handle:
            raise EngineError("no memory for the buffers of a step")
        self._handle = handle
        # Not when the process ends: a step may be on its way in the engine's thread, and the memory goes anyway.
        weakref.finalize(self, kernels.decoder_destroy, handle).atexit = False

    @staticmethod
    def fits(config: ModelConfig) -> bool:
        """Whether the kernels are there, run on this CPU, and know this shape."""
        group = config.num_heads // config.num_kv_heads
        return (
            native.load_kernels() is not None
            and config.head_dim % native.LANES == 0
            and config.intermediate_size % native.LANES == 0
            and group <= native.MAX_QUERIES
        )

    @staticmethod
    def most_rows(config: ModelConfig) -> int:
        """Rows that a step may have at most."""
        return native.MAX_ITEMS // config.num_kv_heads

    def forward(
        self, tokens: list[int], spans: list[Span], logit_rows: list[int], *, keeps_memory: bool = True
    ) -> Tensor:
        """Compute all rows, writing their keys and values, and return logits float32 (len(logit_rows), vocab_size).

        The logits are good until the next call: fresh memory for them would cost more than the likeliest token.

        Args:
            tokens: of all rows, span by span.
            spans: which rows belong together.
            logit_rows: rows whose logits are wanted.
            keeps_memory: whether the next steps will want as many.
        """
        assert len(tokens) <= self._max_rows
        tables = [array("i", table) for _, _, table in spans]
        c_spans = (native.Span * len(spans))()
        first_row = 0
        for c_span, (num_rows, position, _), table in zip(c_spans, spans, tables, strict=True):
            c_span.first_row = first_row
            c_span.num_rows = num_rows
            c_span.first_position = position
            c_span.block_table = table.buffer_info()[0]
            first_row += num_rows
        c_tokens, c_logit_rows = array("i", tokens), array("i", logit_rows)
        logits = self._logits[: len(logit_rows)]
        if len(logits) < len(logit_rows):
            logits = torch.empty(len(logit_rows), self._vocab_size)
            if keeps_memory:
                self._logits = logits
        step = native.Step(
            num_rows=len(tokens),
            num_spans=len(spans),
            num_logit_rows=len(logit_rows),
            tokens=c_tokens.buffer_info()[0],
            spans=c_spans,
            logit_rows=c_logit_rows.buffer_info()[0],
            logits=logits.data_ptr(),
        )
        self._step_function(self._handle, ctypes.byref(step))
        return logits

    def _fill_layer(self, layer: native.Layer, index: int, config: ModelConfig, num_blocks: int) -> None:
        layer.qkv = self._linear(f"{index}.qkv", config.hidden_size)
        layer.output = self._linear(f"{index}.output", config.num_heads * config.head_dim)
        layer.gate_up = self._linear(f"{index}.gate_up", config.hidden_size)
        layer.down = self._linear(f"{index}.down", config.intermediate_size)
        if config.qk_norm:
            layer.query_norm = self._address(self._quantised[f"{index}.query_norm"])
            layer.key_norm = self._address(self._quantised[f"{index}.key_norm"])
        page_elements = native.BLOCK_TOKENS * config.num_kv_heads * config.head_dim
        layer.keys, layer.values = (self._address(_lazy_zeros(num_blocks * page_elements)) for _ in range(2))
        layer.window = config.sliding_windows[index] or 0

    def _linear(self, key: str, in_features: int) -> native.Linear:
        scale, bias = self._quantised[f"{key}.scale"], self._quantised.get(f"{key}.bias")
        return native.Linear(
            weight=self._address(self._quantised[f"{key}.weight"]),
            scale=self._address(scale),
            bias=None if bias is None else self._address(bias),
            out_features=len(scale),
            in_features=in_features,
        )

    def _address(self, tensor: Tensor) -> int:
        assert tensor.is_contiguous()
        self._keep.append(tensor)
        return tensor.data_ptr()


def _lazy_zeros(count: int) -> Tensor:
    """Zeros in half precision, from the kernel, which takes memory on first use only."""
    pages = mmap.mmap(-1, count * torch.float16.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=torch.float16)


def _rope_tables(config: ModelConfig, max_positions: int) -> tuple[Tensor, Tensor]:
    """Cos and sin, each (max_positions, head_dim / 2) float32."""
    frequencies, scale = inverse_frequencies(config.rope, config.head_dim)
    angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), frequencies)
    return angles.cos().mul_(scale), angles.sin().mul_(scale)
