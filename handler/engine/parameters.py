"""The decoder's parameters: how each is called, of which stored tensors it is made, and their collection from a stream.

Nothing may be missing and nothing left over; stored tensors are handed on as soon as a parameter has all of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec
import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.errors import CorruptSnapshotError

Shapes = dict[str, tuple[int, ...]]


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter of the decoder and the stored tensors, by name and shape, that are fused into it.

    Attributes:
        key: its name in the decoder.
        kind: what it becomes.
        weights: stored weights, fused along their rows.
        biases: stored biases of a linear layer, fused likewise.
        input_norm: for a layer that reads the residual stream, the norm before it.
        writes_residual: whether the layer's output is added to the residual stream.
        is_before_linear: whether a norm stands between the residual stream and the layers that have it as input_norm.
    """

    key: str
    kind: Literal["embedding", "norm", "linear"]
    weights: Shapes
    biases: Shapes = {}
    input_norm: str | None = None
    writes_residual: bool = False
    is_before_linear: bool = False

    @property
    def stored(self) -> Shapes:
        """The tensors that the checkpoint must hold for this parameter."""
        return self.weights | self.biases

    @property
    def stored_with_input_norm(self) -> Shapes:
        """Those, and the weights of the norm that is folded into the layer."""
        if self.input_norm is None:
            return self.stored
        columns = next(iter(self.weights.values()))[1]
        return self.stored | {self.input_norm: (columns,)}

    def fused_weight(self, tensors: dict[str, Tensor]) -> Tensor:
        """The weight, from the stored tensors by name."""
        return _fuse([tensors[name] for name in self.weights])

    def fused_bias(self, tensors: dict[str, Tensor]) -> Tensor | None:
        """The bias of a linear layer that has one."""
        return _fuse([tensors[name] for name in self.biases]) if self.biases else None


def collect(
    config: ModelConfig,
    wanted: list[Parameter],
    needs: Callable[[Parameter], Shapes],
    tensors: Iterable[tuple[str, Tensor]],
) -> Iterator[tuple[Parameter, dict[str, Tensor]]]:
    """Each parameter of `wanted` with its tensors by name, as soon as the last of them has come.

    Raises:
        CorruptSnapshotError: a tensor is missing, unknown, given twice or of the wrong shape.
    """
    users: dict[str, list[Parameter]] = {}
    shapes: Shapes = {}
    for parameter in wanted:
        for name, shape in needs(parameter).items():
            users.setdefault(name, []).append(parameter)
            shapes[name] = shape
    arrived: dict[str, dict[str, Tensor]] = {}
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
            if len(group) == len(needs(user)):
                yield user, arrived.pop(user.key)
    if users:
        raise CorruptSnapshotError(f"{len(users)} tensors are missing, the first is {min(users)}")


def parameters(config: ModelConfig) -> Iterator[Parameter]:
    """Every parameter of the decoder, with the names that transformers gives its tensors."""
    hidden = config.hidden_size
    embedding, norm = "model.embed_tokens.weight", "model.norm.weight"
    head = embedding if config.tie_word_embeddings else "lm_head.weight"
    yield Parameter(key="embedding", kind="embedding", weights={embedding: (config.vocab_size, hidden)})
    yield Parameter(key="norm", kind="norm", weights={norm: (hidden,)}, is_before_linear=True)
    yield Parameter(key="head", kind="linear", weights={head: (config.vocab_size, hidden)}, input_norm=norm)
    for index in range(config.num_layers):
        yield from _layer_parameters(config, index)


def _layer_parameters(config: ModelConfig, index: int) -> Iterator[Parameter]:
    hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
    query, key_value = config.num_heads * head_dim, config.num_kv_heads * head_dim
    prefix = f"model.layers.{index}."
    before_attention, before_mlp = f"{prefix}input_layernorm.weight", f"{prefix}post_attention_layernorm.weight"

    def norm(key: str, name: str, size: int, *, is_before_linear: bool = False) -> Parameter:
        return Parameter(key=f"{index}.{key}", kind="norm", weights={name: (size,)}, is_before_linear=is_before_linear)

    def linear(key: str, rows: dict[str, int], columns: int, *, bias: bool, input_norm: str | None = None) -> Parameter:
        return Parameter(
            key=f"{index}.{key}",
            kind="linear",
            weights={f"{prefix}{name}.weight": (size, columns) for name, size in rows.items()},
            biases={f"{prefix}{name}.bias": (size,) for name, size in rows.items()} if bias else {},
            input_norm=input_norm,
            writes_residual=input_norm is None,
        )

    yield norm("input_norm", before_attention, hidden, is_before_linear=True)
    yield norm("post_attention_norm", before_mlp, hidden, is_before_linear=True)
    if config.qk_norm:
        yield norm("query_norm", f"{prefix}self_attn.q_norm.weight", head_dim)
        yield norm("key_norm", f"{prefix}self_attn.k_norm.weight", head_dim)
    projections = {"self_attn.q_proj": query, "self_attn.k_proj": key_value, "self_attn.v_proj": key_value}
    gate_up = {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    yield linear("qkv", projections, hidden, bias=config.qkv_bias, input_norm=before_attention)
    yield linear("output", {"self_attn.o_proj": hidden}, query, bias=config.output_bias)
    yield linear("gate_up", gate_up, hidden, bias=config.mlp_bias, input_norm=before_mlp)
    yield linear("down", {"mlp.down_proj": hidden}, inner, bias=config.mlp_bias)


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Old checkpoints store what follows from the configuration, and tied heads a second time."""
    return name.endswith(".rotary_emb.inv_freq") or (name == "lm_head.weight" and config.tie_word_embeddings)


def _fuse(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
