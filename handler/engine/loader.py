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
from handler.engine.kernels import HeadNorms, Kernels, RmsNorm, TorchKernels
from handler.engine.linear import Linear
from handler.engine.model import Decoder, Layer
from handler.engine.precision import Precision
from handler.engine.rope import RotaryEmbedding
from handler.engine.rotation import Rotation
from handler.errors import CorruptSnapshotError


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of the decoder and the stored tensors, by name and shape, that are fused into it.

    Attributes:
        key: its name in the decoder.
        kind: what it becomes.
        weights: stored weights, fused along their rows.
        biases: stored biases of a linear layer, fused likewise.
        input_norm: for a layer that reads the residual stream, the norm before it; folded into it under a rotation.
        writes_residual: whether the layer's output is added to the residual stream.
        is_folded: whether a norm's weights become ones under a rotation.
        digits: of its activations, where they are int8.
    """

    key: str
    kind: Literal["embedding", "norm", "linear"]
    weights: dict[str, tuple[int, ...]]
    biases: dict[str, tuple[int, ...]] = {}
    input_norm: str | None = None
    writes_residual: bool = False
    is_folded: bool = False
    digits: int = 1

    def stored(self, rotation: Rotation | None) -> dict[str, tuple[int, ...]]:
        """All tensors that the checkpoint must hold for this parameter."""
        if rotation is None or self.input_norm is None:
            return self.weights | self.biases
        return self.weights | self.biases | {self.input_norm: (rotation.size,)}

    def build(self, tensors: dict[str, Tensor], precision: Precision, rotation: Rotation | None) -> Tensor | Linear:
        """The parameter in its final form, on its device."""
        weight = _fuse([tensors[name] for name in self.weights])
        if self.kind == "norm":
            weight = torch.ones_like(weight) if rotation is not None and self.is_folded else weight
            return weight.to(precision.device, precision.dtype)
        if self.kind == "embedding" and rotation is not None and precision.rotates_embedding:
            return rotation.columns(weight.to(precision.device)).to(precision.dtype)
        if self.kind == "embedding":
            return weight.to(precision.device)  # rows are converted when looked up; on the CPU it stays mapped
        bias = _fuse([tensors[name] for name in self.biases]) if self.biases else None
        if rotation is not None:
            weight, bias = weight.to(precision.device), None if bias is None else bias.to(precision.device)
        if rotation is not None and self.input_norm is not None:
            weight = rotation.columns(weight.float() * tensors[self.input_norm].to(precision.device).float())
        if rotation is not None and self.writes_residual:
            weight, bias = rotation.rows(weight), None if bias is None else rotation.rows(bias)
        return precision.linear(weight, bias, self.digits)


def load_decoder(
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    precision: Precision,
    max_positions: int,
    kernels: Kernels | None = None,
) -> Decoder:
    """Assemble the decoder, with torch's own operations for `kernels` unless others are given.

    Raises:
        CorruptSnapshotError: a tensor is missing, unknown, given twice or of the wrong shape.
    """
    rotation = Rotation(config.hidden_size, precision.device) if precision.quantization == "int8" else None
    built = _build_all(config, tensors, precision, rotation)
    return Decoder(
        config,
        embedding=built["embedding"],
        embedding_rotation=None
        if rotation is None or precision.rotates_embedding
        else precision.float_linear(rotation.matrix().t(), None),
        layers=[_layer(config, built, index) for index in range(config.num_layers)],
        norm=RmsNorm(built["norm"], config.rms_norm_eps),
        head=built["head"],
        rope=RotaryEmbedding(config.rope, config.head_dim, max_positions, precision.device, precision.dtype),
        dtype=precision.dtype,
        kernels=kernels or TorchKernels(),
    )


def _build_all(
    config: ModelConfig, tensors: Iterable[tuple[str, Tensor]], precision: Precision, rotation: Rotation | None
) -> dict[str, Any]:
    """Every parameter by its key, each built as soon as its last tensor has come."""
    users: dict[str, list[Parameter]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for parameter in parameters(config):
        for name, shape in parameter.stored(rotation).items():
            users.setdefault(name, []).append(parameter)
            shapes[name] = shape
    arrived: dict[str, dict[str, Tensor]] = {}
    built: dict[str, Any] = {}
    for name, tensor in tensors:
        if _is_redundant(name, config):
            continue
        if name not in users:
            fault = "is stored twice" if name in shapes else f"does not belong to a {config.architecture}"
            raise CorruptSnapshotError(f"tensor {name} {fault}")
        if tuple(tensor.shape) != shapes[name]:
            raise CorruptSnapshotError(f"tensor {name} is {tuple(tensor.shape)}, expected {shapes[name]}")
        for user in users.pop(name):
            group = arrived.setdefault(user.key, {})
            group[name] = tensor
            if len(group) == len(user.stored(rotation)):
                built[user.key] = user.build(arrived.pop(user.key), precision, rotation)
    if users:
        raise CorruptSnapshotError(f"{len(users)} tensors are missing, the first is {min(users)}")
    return built


def parameters(config: ModelConfig) -> Iterator[Parameter]:
    """Every parameter of the decoder, with the names that transformers gives its tensors."""
    hidden = config.hidden_size
    embedding, norm = "model.embed_tokens.weight", "model.norm.weight"
    head = embedding if config.tie_word_embeddings else "lm_head.weight"
    yield Parameter(key="embedding", kind="embedding", weights={embedding: (config.vocab_size, hidden)})
    yield Parameter(key="norm", kind="norm", weights={norm: (hidden,)}, is_folded=True)
    yield Parameter(key="head", kind="linear", weights={head: (config.vocab_size, hidden)}, input_norm=norm)
    for index in range(config.num_layers):
        yield from _layer_parameters(config, index)


def _layer_parameters(config: ModelConfig, index: int) -> Iterator[Parameter]:
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key_value = config.num_heads * head_dim, config.num_kv_heads * head_dim
    prefix = f"model.layers.{index}."
    before_attention, before_mlp = f"{prefix}input_layernorm.weight", f"{prefix}post_attention_layernorm.weight"

    def norm(key: str, name: str, size: int, *, is_folded: bool = False) -> Parameter:
        return Parameter(key=f"{index}.{key}", kind="norm", weights={name: (size,)}, is_folded=is_folded)

    def linear(
        key: str, rows: dict[str, int], columns: int, *, bias: bool, input_norm: str | None = None, digits: int = 1
    ) -> Parameter:
        return Parameter(
            key=f"{index}.{key}",
            kind="linear",
            weights={f"{prefix}{name}.weight": (size, columns) for name, size in rows.items()},
            biases={f"{prefix}{name}.bias": (size,) for name, size in rows.items()} if bias else {},
            input_norm=input_norm,
            writes_residual=input_norm is None,
            digits=digits,
        )

    yield norm("input_norm", before_attention, hidden, is_folded=True)
    yield norm("post_attention_norm", before_mlp, hidden, is_folded=True)
    if config.qk_norm:
        yield norm("query_norm", f"{prefix}self_attn.q_norm.weight", head_dim)
        yield norm("key_norm", f"{prefix}self_attn.k_norm.weight", head_dim)
    projections = {"self_attn.q_proj": query, "self_attn.k_proj": key_value, "self_attn.v_proj": key_value}
    gate_up = {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    yield linear("qkv", projections, hidden, bias=config.qkv_bias, input_norm=before_attention)
    yield linear("output", {"self_attn.o_proj": hidden}, query, bias=config.output_bias)
    yield linear("gate_up", gate_up, hidden, bias=config.mlp_bias, input_norm=before_mlp)
    # What enters here is no stream that a rotation could even out, and has outliers of its own.
    yield linear("down", {"mlp.down_proj": hidden}, inner, bias=config.mlp_bias, digits=2)


def _layer(config: ModelConfig, built: dict[str, Any], index: int) -> Layer:
    def norm(key: str) -> RmsNorm:
        return RmsNorm(built[f"{index}.{key}"], config.rms_norm_eps)

    return Layer(
        input_norm=norm("input_norm"),
        qkv=built[f"{index}.qkv"],
        head_norms=HeadNorms(norm("query_norm"), norm("key_norm")) if config.qk_norm else None,
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
