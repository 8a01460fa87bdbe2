"""Builds a decoder from a stream of (name, tensor), parameter by parameter.

In floating point the tensors of a checkpoint are fused and converted, and released as soon as their parameter stands;
in int8 they come from `quantised.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.cuda.linear import PaddedInt8Linear
from handler.engine.kernels import HeadNorms, Kernels, RmsNorm, TorchKernels
from handler.engine.linear import Int8Linear, Linear
from handler.engine.model import Decoder, Layer
from handler.engine.parameters import Parameter, collect, parameters
from handler.engine.precision import Precision
from handler.engine.quantised import digits_of, separate, unpack_rows
from handler.engine.rope import RotaryEmbedding
from handler.engine.staging import Move, move_to


def load_decoder(
    config: ModelConfig,
    tensors: Iterable[tuple[str, Tensor]],
    precision: Precision,
    max_positions: int,
    kernels: Kernels | None = None,
) -> Decoder:
    """Assemble the decoder from the tensors of a checkpoint, in any form but int8.

    With torch's own operations for `kernels` unless others are given.

    Raises:
        CorruptSnapshotError: a tensor is missing, unknown, given twice or of the wrong shape.
    """
    wanted = list(parameters(config))
    groups = collect(config, wanted, lambda parameter: parameter.stored, tensors)
    move = move_to(precision.device)
    built = {parameter.key: _build(parameter, group, precision, move) for parameter, group in groups}
    return _decoder(config, built, precision, max_positions, kernels or TorchKernels())


def load_int8_decoder(
    config: ModelConfig,
    quantised: Mapping[str, Tensor],
    precision: Precision,
    max_positions: int,
    kernels: Kernels | None = None,
) -> Decoder:
    """Assemble the decoder from all that `quantised_tensors` yields; norms folded there become ones here."""
    built: dict[str, Any] = {}
    move = move_to(precision.device)
    for parameter in parameters(config):
        key = parameter.key
        if parameter.kind == "linear":
            built[key] = _int8_linear(parameter, quantised, precision, move)
        elif parameter.is_before_linear:
            built[key] = torch.ones(config.hidden_size, device=precision.device, dtype=precision.dtype)
        elif parameter.kind == "embedding":
            built[key] = move(quantised[key])
        else:
            built[key] = move(quantised[key]).to(precision.dtype)
    return _decoder(config, built, precision, max_positions, kernels or TorchKernels())


def _build(parameter: Parameter, tensors: dict[str, Tensor], precision: Precision, move: Move) -> Tensor | Linear:
    """The parameter in its final form, on its device."""
    # Moved before they are fused: on the host that would copy most of the model once more.
    tensors = {name: move(tensor) for name, tensor in tensors.items()}
    weight = parameter.fused_weight(tensors)
    if parameter.kind == "norm":
        return weight.to(precision.dtype)
    if parameter.kind == "embedding":
        return weight  # rows are converted when looked up; on the CPU it stays mapped
    return precision.linear(weight, parameter.fused_bias(tensors))


def _int8_linear(parameter: Parameter, quantised: Mapping[str, Tensor], precision: Precision, move: Move) -> Int8Linear:
    key = parameter.key
    out_features = sum(shape[0] for shape in parameter.weights.values())
    in_features = next(iter(parameter.weights.values()))[1]
    weight = unpack_rows(quantised[f"{key}.weight"], out_features, in_features)
    scales, bias = quantised[f"{key}.scale"], quantised.get(f"{key}.bias")
    if key.endswith(".gate_up"):
        weight, scales = separate(weight), separate(scales)
        bias = None if bias is None else separate(bias)
    moved_bias = None if bias is None else move(bias)
    kind = Int8Linear if precision.device.type == "cpu" else PaddedInt8Linear
    return kind(move(weight), move(scales), moved_bias, digits_of(key))


def _decoder(
    config: ModelConfig, built: dict[str, Any], precision: Precision, max_positions: int, kernels: Kernels
) -> Decoder:
    return Decoder(
        config,
        embedding=built["embedding"],
        layers=[_layer(config, built, index) for index in range(config.num_layers)],
        norm=RmsNorm(built["norm"], config.rms_norm_eps),
        head=built["head"],
        rope=RotaryEmbedding(config.rope, config.head_dim, max_positions, precision.device, precision.dtype),
        dtype=precision.dtype,
        kernels=kernels,
    )


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
