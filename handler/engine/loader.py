"""Builds a decoder from a stream of (name, tensor): fuses, converts and quantises parameter by parameter.

Nothing may be missing and nothing left over; stored tensors are released as soon as their parameter stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.linear import FloatLinear, Int8Linear, Linear, PackedLinear
from handler.engine.model import Decoder, Layer, RmsNorm
from handler.engine.rope import RotaryEmbedding
from handler.errors import CorruptSnapshotError


class Precision(msgspec.Struct, frozen=True):
    """Where parameters live and in which form. `dtype` is that of activations and unquantised weights."""

    device: torch.device
    dtype: torch.dtype
    quantization: Literal["none", "int8"]

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A linear layer from its stored weight (out_features, in_features) and bias (out_features,)."""
        moved_bias = None if bias is None else bias.to(self.device, self.dtype)
        if self.quantization == "int8":
            return Int8Linear(weight.to(self.device), moved_bias)
        if PackedLinear.is_available(self.device, self.dtype):
            return PackedLinear(weight.to(self.device, self.dtype), moved_bias)
        return FloatLinear(weight.to(self.device, self.dtype), moved_bias)


class Parameter(msgspec.Struct, frozen=True):
    """One parameter of the decoder and the stored tensors, by name and shape, that are fused into it."""

    key: str
    kind: Literal["embedding", "norm", "linear"]
    weights: dict[str, tuple[int, ...]]
    biases: dict[str, tuple[int, ...]] = {}

    @property
    def stored(self) -> dict[str, tuple[int, ...]]:
        """All tensors that the checkpoint must hold for this parameter."""
        return self.weights | self.biases

    def build(self, tensors: dict[str, Tensor], precision: Precision) -> Tensor | Linear:
        """The parameter in its final form, on its device."""
        weight = _fuse([tensors[name] for name in self.weights])
        if self.kind == "norm":
            return weight.to(precision.device, precision.dtype)
        if self.kind == "embedding":
            return weight.to(precision.device)  # rows are converted when looked up; on the CPU it stays mapped
        return precision.linear(weight, _fuse([tensors[name] for name in self.biases]) if self.biases else None)


def load_decoder(
    config: ModelConfig, tensors: Iterable[tuple[str, Tensor]], precision: Precision, max_positions: int
) -> Decoder:
    """Assemble the decoder.

    Raises:
        CorruptSnapshotError: a tensor is missing, unknown, given twice or of the wrong shape.
    """
    owners = {name: parameter for parameter in parameters(config) for name in parameter.stored}
    arrived: dict[str, dict[str, Tensor]] = {}
    built: dict[str, Any] = {}
    for name, tensor in tensors:
        if _is_redundant(name, config):
            continue
        owner = owners.pop(name, None)
        if owner is None:
            is_known = any(name in parameter.stored for parameter in parameters(config))
            fault = "is stored twice" if is_known else f"does not belong to a {config.architecture}"
            raise CorruptSnapshotError(f"tensor {name} {fault}")
        if tuple(tensor.shape) != owner.stored[name]:
            raise CorruptSnapshotError(f"tensor {name} is {tuple(tensor.shape)}, expected {owner.stored[name]}")
        group = arrived.setdefault(owner.key, {})
        group[name] = tensor
        if len(group) == len(owner.stored):
            built[owner.key] = owner.build(arrived.pop(owner.key), precision)
    if owners:
        raise CorruptSnapshotError(f"{len(owners)} tensors are missing, the first is {min(owners)}")
    if config.tie_word_embeddings:
        built["head"] = precision.linear(built["embedding"], None)
    return Decoder(
        config,
        embedding=built["embedding"],
        layers=[_layer(config, built, index) for index in range(config.num_layers)],
        norm=RmsNorm(built["norm"], config.rms_norm_eps),
        head=built["head"],
        rope=RotaryEmbedding(config.rope, config.head_dim, max_positions, precision.device, precision.dtype),
        dtype=precision.dtype,
    )


def parameters(config: ModelConfig) -> Iterator[Parameter]:
    """Every parameter of the decoder, with the names that transformers gives its tensors."""
    hidden = config.hidden_size
    yield Parameter("embedding", "embedding", {"model.embed_tokens.weight": (config.vocab_size, hidden)})
    yield Parameter("norm", "norm", {"model.norm.weight": (hidden,)})
    if not config.tie_word_embeddings:
        yield Parameter("head", "linear", {"lm_head.weight": (config.vocab_size, hidden)})
    for index in range(config.num_layers):
        yield from _layer_parameters(config, index)


def _layer_parameters(config: ModelConfig, index: int) -> Iterator[Parameter]:
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key_value = config.num_heads * head_dim, config.num_kv_heads * head_dim

    def norm(key: str, name: str, size: int) -> Parameter:
        return Parameter(f"{index}.{key}", "norm", {f"model.layers.{index}.{name}.weight": (size,)})

    def linear(key: str, rows: dict[str, int], columns: int, *, bias: bool) -> Parameter:
        prefix = f"model.layers.{index}."
        weights: dict[str, tuple[int, ...]] = {f"{prefix}{name}.weight": (size, columns) for name, size in rows.items()}
        biases: dict[str, tuple[int, ...]] = {f"{prefix}{name}.bias": (size,) for name, size in rows.items()}
        return Parameter(f"{index}.{key}", "linear", weights, biases if bias else {})

    yield norm("input_norm", "input_layernorm", hidden)
    yield norm("post_attention_norm", "post_attention_layernorm", hidden)
    if config.qk_norm:
        yield norm("query_norm", "self_attn.q_norm", head_dim)
        yield norm("key_norm", "self_attn.k_norm", head_dim)
    projections = {"self_attn.q_proj": query, "self_attn.k_proj": key_value, "self_attn.v_proj": key_value}
    yield linear("qkv", projections, hidden, bias=config.qkv_bias)
    yield linear("output", {"self_attn.o_proj": hidden}, query, bias=config.output_bias)
    yield linear("gate_up", {"mlp.gate_proj": inner, "mlp.up_proj": inner}, hidden, bias=config.mlp_bias)
    yield linear("down", {"mlp.down_proj": hidden}, inner, bias=config.mlp_bias)


def _layer(config: ModelConfig, built: dict[str, Any], index: int) -> Layer:
    def norm(key: str) -> RmsNorm:
        return RmsNorm(built[f"{index}.{key}"], config.rms_norm_eps)

    return Layer(
        input_norm=norm("input_norm"),
        qkv=built[f"{index}.qkv"],
        query_norm=norm("query_norm") if config.qk_norm else None,
        key_norm=norm("key_norm") if config.qk_norm else None,
        output=built[f"{index}.output"],
        post_attention_norm=norm("post_attention_norm"),
        gate_up=built[f"{index}.gate_up"],
        down=built[f"{index}.down"],
    )


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Old checkpoints store what follows from the configuration, and tied heads a second time."""
    return name.endswith(".rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings)


def _fuse(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
