"""The int8 form of a model: rotated, quantised and laid out for the kernels.

`prepare` stores it beside the weights, so that a boot only maps it; where it is missing it is made while loading.
Names are the decoder's own: `embedding`, and `head`, `0.qkv`, `0.gate_up` and so on, each with `.weight` (uint8, as
`pack_rows` gives it), `.scale` (float32, one for each output) and perhaps `.bias` (likewise). The embedding is float16.
Norms of queries and keys stay float32, the other norms are folded into the layers behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.linear import quantise_rows
from handler.engine.parameters import Parameter, collect, parameters
from handler.engine.rotation import Rotation
from handler.engine.weights.specs import TensorSpec

LANES = 16
"""Output rows of a weight block, and the multiple to which inputs are padded."""

DIGITS = {"down": 2}
"""Int8 numbers for each activation that enters a layer, where it is more than one. What enters `down` is no stream that
a rotation could even out, and has outliers of its own."""

_EMBEDDING_ROWS = 4096  # rotated at a time, so that the embedding is never whole in float32


def quantised_tensors(
    config: ModelConfig, tensors: Iterable[tuple[str, Tensor]], device: torch.device | None = None
) -> Iterator[tuple[str, Tensor]]:
    """All tensors of the int8 decoder, each as soon as the stored ones that it is made of have come.

    Computed on `device`, where there is one, and left there.

    Raises:
        CorruptSnapshotError: a tensor is missing, unknown, given twice or of the wrong shape.
    """
    device = device or torch.device("cpu")
    rotation = Rotation(config.hidden_size, device)
    for parameter, group in collect(config, _kept(config), lambda parameter: parameter.stored_with_input_norm, tensors):
        for name, tensor in group.items():
            group[name] = tensor.to(device)
        if parameter.kind == "linear":
            yield from _linear(parameter, group, rotation)
        elif parameter.kind == "embedding":
            rows = torch.split(parameter.fused_weight(group), _EMBEDDING_ROWS)
            yield parameter.key, torch.cat([rotation.columns(part).half() for part in rows])
        else:
            yield parameter.key, parameter.fused_weight(group).float()
        group.clear()  # before the next tensor is asked for


def quantised_specs(config: ModelConfig) -> list[TensorSpec]:
    """What `quantised_tensors` yields, in the order of use but for the small tensors, which come last.

    So every weight begins at a cache line in a file that holds them in this order.
    """
    large, small = [], []
    for parameter in _kept(config):
        shapes = parameter.weights.values()
        rows = sum(shape[0] for shape in shapes)
        if parameter.kind == "embedding":
            large.append(TensorSpec("embedding", torch.float16, *shapes))
        elif parameter.kind == "norm":
            small.append(TensorSpec(parameter.key, torch.float32, (rows,)))
        else:
            columns = next(iter(shapes))[1]
            packed = (-(-rows // LANES), -(-columns // LANES) * LANES // 4, LANES, 4)
            large.append(TensorSpec(f"{parameter.key}.weight", torch.uint8, packed))
            small.append(TensorSpec(f"{parameter.key}.scale", torch.float32, (rows,)))
            if parameter.biases:
                small.append(TensorSpec(f"{parameter.key}.bias", torch.float32, (rows,)))
    return large + small


def digits_of(key: str) -> int:
    """How many int8 numbers stand for one activation of the layer called `key`."""
    return DIGITS.get(key.rpartition(".")[2], 1)


def pack_rows(quantised: Tensor) -> Tensor:
    """Int8 (out, in) -> uint8 (out / 16, in / 4, 16, 4), both padded to multiples of 16: what pl_linear describes."""
    rows, columns = (-(-size // LANES) * LANES for size in quantised.shape)
    padded = torch.zeros(rows, columns, dtype=torch.int8, device=quantised.device)
    padded[: quantised.shape[0], : quantised.shape[1]] = quantised
    blocks = padded.view(rows // LANES, LANES, columns // 4, 4).transpose(1, 2)
    return blocks.contiguous().view(torch.uint8) ^ 0x80  # two's complement plus 128


def unpack_rows(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    """The inverse of `pack_rows`."""
    blocks, groups = packed.shape[:2]
    rows = (packed ^ 0x80).view(torch.int8).transpose(1, 2).reshape(blocks * LANES, groups * 4)
    return rows[:out_features, :in_features].contiguous()


def interleave(gate_up: Tensor) -> Tensor:
    """Rows (2 * inner, ...) of gate, then up -> blocks of 16 rows of gate and of up by turns, which one thread pairs.

    Unchanged where blocks of 16 do not fit.
    """
    inner = len(gate_up) // 2
    if inner % LANES:
        return gate_up
    return gate_up.view(2, inner // LANES, LANES, *gate_up.shape[1:]).transpose(0, 1).reshape(gate_up.shape)


def separate(gate_up: Tensor) -> Tensor:
    """The inverse of `interleave`."""
    inner = len(gate_up) // 2
    if inner % LANES:
        return gate_up
    return gate_up.view(inner // LANES, 2, LANES, *gate_up.shape[1:]).transpose(0, 1).reshape(gate_up.shape)


def _kept(config: ModelConfig) -> list[Parameter]:
    return [parameter for parameter in parameters(config) if not parameter.is_before_linear]


def _linear(parameter: Parameter, group: dict[str, Tensor], rotation: Rotation) -> Iterator[tuple[str, Tensor]]:
    weight, bias = parameter.fused_weight(group), parameter.fused_bias(group)
    if parameter.input_norm is not None:
        weight = rotation.columns(weight.float() * group[parameter.input_norm].float())
    if parameter.writes_residual:
        weight, bias = rotation.rows(weight), None if bias is None else rotation.rows(bias)
    quantised, scales = quantise_rows(weight.float())
    scales = scales.squeeze(1)
    bias = None if bias is None else bias.float()
    if parameter.key.endswith(".gate_up"):
        quantised, scales = interleave(quantised), interleave(scales)
        bias = None if bias is None else interleave(bias)
    yield f"{parameter.key}.weight", pack_rows(quantised)
    yield f"{parameter.key}.scale", scales
    if bias is not None:
        yield f"{parameter.key}.bias", bias
