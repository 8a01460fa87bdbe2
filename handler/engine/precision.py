"""On which device and in which form the parameters live: what the options say, checked against this machine."""

from __future__ import annotations

from typing import Literal

import msgspec
import torch
from torch import Tensor

from handler.engine.cuda.linear import Fp8Linear, ScaledProduct, find_scaled_product, has_int8_product
from handler.engine.linear import FloatLinear, Linear, PackedLinear, int8_sums_saturate
from handler.engine.native.library import load_kernels
from handler.engine.options import EngineOptions
from handler.errors import ConfigurationError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Precision(msgspec.Struct, frozen=True):
    """Where parameters live and in which form. `dtype` is that of activations and unquantised weights."""

    device: torch.device
    dtype: torch.dtype
    quantization: Literal["none", "int8", "fp8"]
    fp8_product: ScaledProduct | None = None

    def linear(self, weight: Tensor, bias: Tensor | None) -> Linear:
        """A layer from its weight (out_features, in_features) and bias (out_features,), in any form but int8."""
        moved_bias = None if bias is None else bias.to(self.device, self.dtype)
        if self.fp8_product is not None:
            return Fp8Linear(weight.to(self.device), moved_bias, self.fp8_product)
        kind = PackedLinear if PackedLinear.is_available(self.device, self.dtype) else FloatLinear
        return kind(weight.to(self.device, self.dtype), moved_bias)


def resolve_precision(
    options: EngineOptions, *, can_quantise: bool = True, has_kernels: bool | None = None
) -> Precision:
    """What `options` ask for, with every `auto` decided.

    Args:
        options: what is asked for.
        can_quantise: whether the model has an int8 form.
        has_kernels: whether the compiled kernels would compute that form on the CPU; None: where there are any.

    Raises:
        ConfigurationError: this machine has no such device, or the choices do not go together.
    """
    name = options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError("MODEL_DEVICE", f"{name} asked for, but torch finds no CUDA device")
    if name == "cuda":
        name = "cuda:0"  # torch.cuda.set_device takes none without an index
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigurationError("MODEL_DEVICE", f"torch knows no device {name}") from error
    if device.type not in {"cpu", "cuda"}:
        raise ConfigurationError("MODEL_DEVICE", f"{name} is neither cpu nor cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError("MODEL_DEVICE", f"{name} asked for, but there are {torch.cuda.device_count()} devices")
    dtype_name = options.dtype
    if dtype_name == "auto":
        dtype_name = "float32" if device.type == "cpu" else "bfloat16"
    if dtype_name not in _DTYPES:
        raise ConfigurationError("TORCH_DTYPE", f"{dtype_name} is none of {', '.join(_DTYPES)}")
    dtype = _DTYPES[dtype_name]
    quantization = _quantization(options, device, can_quantise=can_quantise, has_kernels=has_kernels)
    fp8_product = find_scaled_product(device, dtype) if quantization == "fp8" else None
    if quantization == "fp8" and fp8_product is None:
        raise ConfigurationError("QUANTIZATION", f"{device} has no product of fp8 matrices; use int8 or none")
    return Precision(device, dtype, quantization, fp8_product)


def _quantization(
    options: EngineOptions, device: torch.device, *, can_quantise: bool, has_kernels: bool | None
) -> Literal["none", "int8", "fp8"]:
    """On the CPU int8 where the model has it and it is fast, unless a dtype or a quantization was asked for.

    Without the kernels and without VNNI torch needs several times as long for a step in int8 as for one in float32
    (docs/performance.md).
    """
    if options.quantization == "auto":
        if not can_quantise or device.type != "cpu" or options.dtype != "auto":
            return "none"
        if has_kernels is None:
            has_kernels = load_kernels() is not None
        return "int8" if has_kernels or not int8_sums_saturate() else "none"
    if options.quantization == "int8" and device.type == "cuda" and not has_int8_product(device):
        raise ConfigurationError("QUANTIZATION", f"{device} has no product of int8 matrices; use none")
    return options.quantization
