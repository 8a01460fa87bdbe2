"""Rotary position embeddings: cosine and sine tables, made once per model, and their application.

Frequencies follow transformers' `modeling_rope_utils` (RoPE, arXiv:2104.09864; YaRN, arXiv:2309.00071; Llama 3.1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from handler.engine.rope_config import RopeConfig


class RotaryEmbedding:
    """Tables of cos and sin for every position, and their rows for a step."""

    def __init__(
        self, config: RopeConfig, head_dim: int, max_positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        frequencies, scale = inverse_frequencies(config, head_dim)
        angles = torch.outer(torch.arange(max_positions, dtype=torch.float32), frequencies)  # (positions, head_dim / 2)
        cos, sin = angles.cos() * scale, angles.sin() * scale
        self._cos = torch.cat((cos, cos), dim=-1).to(device, dtype)
        self._sin = torch.cat((-sin, sin), dim=-1).to(device, dtype)

    def rows(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of cos and of signed sin for `positions` (T,): two tensors (T, 1, head_dim)."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)


def rotate(heads: Tensor, rows: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate `heads` (T, num_heads, head_dim); the halves of a head are swapped, the first sine is negated."""
    cos, sin = rows
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, dims=-1), sin)


def inverse_frequencies(config: RopeConfig, head_dim: int) -> tuple[Tensor, float]:
    """Inverse frequencies (head_dim / 2,) in float32, and the factor applied to cos and sin."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    plain = 1.0 / (config.theta**exponents)
    if config.rope_type == "linear":
        return plain / config.factor, 1.0
    if config.rope_type == "llama3":
        return _llama3(config, plain), 1.0
    if config.rope_type == "yarn":
        return _yarn(config, plain, head_dim), _yarn_attention_factor(config)
    return plain, 1.0


def _llama3(config: RopeConfig, plain: Tensor) -> Tensor:
    """Long wavelengths are divided by the factor, short ones kept, the band between is blended."""
    original = config.original_max_position_embeddings
    wavelengths = 2 * math.pi / plain
    blend = (original / wavelengths - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    blended = (1 - blend) * plain / config.factor + blend * plain
    is_long = wavelengths > original / config.low_freq_factor
    is_short = wavelengths < original / config.high_freq_factor
    return torch.where(is_long, plain / config.factor, torch.where(is_short, plain, blended))


def _yarn(config: RopeConfig, plain: Tensor, head_dim: int) -> Tensor:
    """Dimensions that turn often are kept, those that turn rarely interpolated, with a linear ramp between."""

    def dimension(rotations: float) -> float:
        turns = config.original_max_position_embeddings / (rotations * 2 * math.pi)
        return head_dim * math.log(turns) / (2 * math.log(config.theta))

    low, high = dimension(config.beta_fast), dimension(config.beta_slow)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    return plain / config.factor * ramp + plain * (1 - ramp)


def _yarn_attention_factor(config: RopeConfig) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if config.factor <= 1 else 0.1 * weight * math.log(config.factor) + 1.0

    if config.attention_factor is not None:
        return config.attention_factor
    if config.mscale and config.mscale_all_dim:
        return mscale(config.mscale) / mscale(config.mscale_all_dim)
    return mscale(1.0)
