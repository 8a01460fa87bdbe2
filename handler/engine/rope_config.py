"""How a model's rotary position embedding is stretched, read from its config.json. Pure: computes no angles, no torch.

Accepts the form of transformers 5 (`rope_parameters`) and the older one (`rope_theta`, `rope_scaling`).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from handler.errors import UnsupportedModelError

RopeType = Literal["default", "linear", "llama3", "yarn"]
ROPE_TYPES: tuple[RopeType, ...] = ("default", "linear", "llama3", "yarn")


class RopeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Rotary position embedding. Fields beyond theta belong to the scaled types and bear transformers' names."""

    theta: float
    rope_type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


def parse_rope(raw: dict[str, Any]) -> RopeConfig:
    """The rope that a decoded config.json asks for.

    Raises:
        UnsupportedModelError: a type that is not among the known ones, or a rope of part of the elements.
        KeyError: a field that the type needs is missing.
        ValueError, TypeError, ArithmeticError: a value is none that the field can have.
    """
    parameters = dict(raw.get("rope_parameters") or raw.get("rope_scaling") or {})
    rope_type = parameters.pop("rope_type", None) or parameters.pop("type", None) or "default"
    if rope_type not in ROPE_TYPES:
        raise UnsupportedModelError("rope type", rope_type, ROPE_TYPES)
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError("partial_rotary_factor", parameters["partial_rotary_factor"], ["1.0"])
    theta = float(parameters.get("rope_theta") or raw.get("rope_theta") or 10000.0)
    if rope_type == "default":
        return RopeConfig(theta=theta)
    original = parameters.get("original_max_position_embeddings") or raw["max_position_embeddings"]
    values = {key: parameters[key] for key in RopeConfig.__struct_fields__ if parameters.get(key) is not None}
    if values.get("factor") is None:
        values["factor"] = raw["max_position_embeddings"] / original
    return msgspec.convert(
        values | {"theta": theta, "rope_type": rope_type, "original_max_position_embeddings": original},
        RopeConfig,
    )
