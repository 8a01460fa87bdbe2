"""The decoder: Llama, Mistral, Qwen2 and Qwen3 by configuration, over a batch of rows from many sequences.

Owns parameters, no state of any sequence. Rows are tokens: (T, ...) holds the tokens of all sequences of a step.
Follows transformers' modeling_llama, modeling_mistral, modeling_qwen2 and modeling_qwen3.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.kernels import HeadNorms, Kernels, RmsNorm
from handler.engine.kv_cache import KvCache
from handler.engine.linear import Linear
from handler.engine.rope import RotaryEmbedding

PlanT_contra = TypeVar("PlanT_contra", contravariant=True)


class Attention(Protocol[PlanT_contra]):
    """Attention over the cache, with a plan of the step in a form of its own."""

    def attend(self, layer: int, queries: Tensor, cache: KvCache, plan: PlanT_contra, /) -> Tensor:
        """`queries` (T, num_heads, head_dim) -> (T, num_heads * head_dim); keys of this step are in the cache."""


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of one layer. `qkv` and `gate_up` are fused along their output rows."""

    input_norm: RmsNorm
    qkv: Linear
    head_norms: HeadNorms | None
    output: Linear
    post_attention_norm: RmsNorm
    gate_up: Linear
    down: Linear


class Decoder:
    """Token ids in, hidden states and logits out."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        embedding: Tensor,
        layers: list[Layer],
        norm: RmsNorm,
        head: Linear,
        rope: RotaryEmbedding,
        dtype: torch.dtype,
        kernels: Kernels,
    ) -> None:
        self.config = config
        self.dtype = dtype
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._rope = rope
        self._kernels = kernels

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        plan: PlanT_contra,
        attention: Attention[PlanT_contra],
        cache: KvCache,
    ) -> Tensor:
        """Run all layers, writing this step's keys and values to `slots` of the cache.

        `tokens`, `positions`, `slots` (T,) int64 -> hidden states before the final norm (T, hidden_size).
        """
        kernels = self._kernels
        stream = F.embedding(tokens, self._embedding).to(self.dtype)
        rope_rows = self._rope.rows(positions)
        update: Tensor | None = None
        for index, layer in enumerate(self._layers):
            x, stream = kernels.add_norm(stream, update, layer.input_norm)
            heads = layer.qkv(x).view(len(x), -1, self.config.head_dim)
            queries = kernels.rotate_and_store(heads, layer.head_norms, rope_rows, cache, index, slots)
            update = layer.output(attention.attend(index, queries, cache, plan))
            x, stream = kernels.add_norm(stream, update, layer.post_attention_norm)
            update = layer.down(kernels.silu_mul(layer.gate_up(x)))
        return stream if update is None else stream + update

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` (R, hidden_size) -> float32 logits (R, vocab_size)."""
        return self._head(self._norm(hidden)).float()
