"""The decoder: Llama, Mistral, Qwen2 and Qwen3 by configuration, over a batch of rows from many sequences.

Owns parameters, no state of any sequence. Rows are tokens: (T, ...) holds the tokens of all sequences of a step.
Follows transformers' modeling_llama, modeling_mistral, modeling_qwen2 and modeling_qwen3.
"""

from __future__ import annotations

import msgspec
import torch
import torch.nn.functional as F  # noqa: N812  (the name every torch user knows)
from torch import Tensor

from handler.engine.attention import PagedAttention, Tile
from handler.engine.config import ModelConfig
from handler.engine.kv_cache import KvCache
from handler.engine.linear import Linear
from handler.engine.rope import RotaryEmbedding


class RmsNorm(msgspec.Struct, frozen=True):
    """Root mean square norm over the last dimension (arXiv:1910.07467)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        """`x` (..., C) -> (..., C)."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of one layer. `qkv` and `gate_up` are fused along their output rows."""

    input_norm: RmsNorm
    qkv: Linear
    query_norm: RmsNorm | None
    key_norm: RmsNorm | None
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
    ) -> None:
        self.config = config
        self.dtype = dtype
        self._embedding = embedding
        self._layers = layers
        self._norm = norm
        self._head = head
        self._rope = rope
        self._num_rotated = config.num_heads + config.num_kv_heads

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Tensor,
        tiles: list[Tile],
        attention: PagedAttention,
        cache: KvCache,
    ) -> Tensor:
        """Run all layers, writing this step's keys and values to `slots` of the cache.

        `tokens`, `positions`, `slots` (T,) int64 -> hidden states before the final norm (T, hidden_size).
        """
        x = F.embedding(tokens, self._embedding).to(self.dtype)
        rope_rows = self._rope.rows(positions)
        for index, layer in enumerate(self._layers):
            queries, keys, values = self._project(layer, layer.input_norm(x), rope_rows)
            cache.write(index, keys, values, slots)
            x = x + layer.output(attention.attend(index, queries, cache, tiles))
            gate, up = layer.gate_up(layer.post_attention_norm(x)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate) * up)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """`hidden` (R, hidden_size) -> float32 logits (R, vocab_size)."""
        return self._head(self._norm(hidden)).float()

    def _project(self, layer: Layer, x: Tensor, rope_rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries (T, num_heads, head_dim), rotated keys and plain values (T, num_kv_heads, head_dim)."""
        config = self.config
        heads = layer.qkv(x).view(len(x), -1, config.head_dim)
        rotated, values = torch.split(heads, [self._num_rotated, config.num_kv_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            queries, keys = torch.split(rotated, [config.num_heads, config.num_kv_heads], dim=1)
            rotated = torch.cat((layer.query_norm(queries), layer.key_norm(keys)), dim=1)
        rotated = self._rope.rotate(rotated, rope_rows)
        return rotated[:, : config.num_heads], rotated[:, config.num_heads :], values
