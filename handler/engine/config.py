"""What the decoder needs to know of a model, read from the config.json of a snapshot. Pure: no torch.

Accepts the form of transformers 5 (`dtype`) and the older one (`torch_dtype`). Defaults are those of transformers'
configuration class of the same architecture. The rope is read in `rope_config.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from handler.engine.json_file import read_json
from handler.engine.rope_config import RopeConfig, parse_rope
from handler.errors import CorruptSnapshotError, UnsupportedModelError


class Family(msgspec.Struct, frozen=True):
    """What sets one architecture apart from Llama."""

    qkv_bias: bool = False
    qk_norm: bool = False
    default_head_dim: int | None = None
    default_kv_heads: int | None = None
    default_sliding_window: int | None = None
    optional_sliding_window: bool = False


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(),
    "MistralForCausalLM": Family(default_kv_heads=8, default_sliding_window=4096),
    "Qwen2ForCausalLM": Family(
        qkv_bias=True, default_kv_heads=32, default_sliding_window=4096, optional_sliding_window=True
    ),
    "Qwen3ForCausalLM": Family(
        qk_norm=True,
        default_head_dim=128,
        default_kv_heads=32,
        default_sliding_window=4096,
        optional_sliding_window=True,
    ),
}
_LARGEST = {
    **dict.fromkeys(("vocab_size", "intermediate_size", "ffn_dim", "n_inner", "moe_intermediate_size"), 1 << 24),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim", "word_embed_proj_dim"), 1 << 20),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_attention_heads", "n_head", "num_key_value_heads"), 1 << 14),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "max_window_layers"), 1 << 14),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "sliding_window"), 1 << 24),
}


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine needs to know of a model, whoever computes it. Sizes are counts of elements.

    Attributes:
        architecture: name of its class in transformers.
        vocab_size: logits in a row.
        num_layers: layers with keys and values of their own.
        num_kv_heads: of each layer.
        head_dim: elements of a key and of a value.
        sliding_windows: of each layer in tokens, None for full attention.
        context_tokens: longest sequence the position embedding was made for.
    """

    architecture: str
    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    sliding_windows: tuple[int | None, ...]
    context_tokens: int


class ModelConfig(ModelShape, frozen=True, kw_only=True):
    """The shape of our decoder."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    dtype: str


def read_config(directory: Path) -> ModelConfig:
    """The decoder's shape from `directory/config.json`.

    Raises:
        CorruptSnapshotError: the file is missing, no JSON, lacks a field or has one of the wrong type.
        UnsupportedModelError: an architecture, activation or rope type outside the known ones.
    """
    path = directory / "config.json"
    try:
        return parse_config(read_json(path, dict[str, Any], "configuration"))
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:  # a value of another kind, or huge
        raise CorruptSnapshotError(f"{path}: {error}") from error
    except KeyError as error:
        raise CorruptSnapshotError(f"{path}: field {error} is missing") from error


def read_architecture(directory: Path) -> str:
    """Name of the model's class from `directory/config.json`, `none` where it has no name.

    Raises:
        CorruptSnapshotError: the file is missing or no JSON object.
    """
    return _architecture(read_json(directory / "config.json", dict[str, Any], "configuration"))


def parse_config(raw: dict[str, Any]) -> ModelConfig:
    """Like `read_config`, from the decoded JSON object. A missing field is a KeyError."""
    _check_sizes(raw)
    architecture = _architecture(raw)
    family = FAMILIES.get(architecture)
    if family is None:
        raise UnsupportedModelError("architecture", architecture, FAMILIES)
    activation = raw.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedModelError("activation", activation, ["silu"])
    num_heads = _size(raw, "num_attention_heads")
    num_kv_heads = int(raw.get("num_key_value_heads", family.default_kv_heads) or num_heads)
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads} attention heads cannot share {num_kv_heads} key-value heads evenly")
    attention_bias = bool(raw.get("attention_bias", False))
    rope = parse_rope(raw)
    stretched_tokens = int(rope.factor * rope.original_max_position_embeddings)
    if stretched_tokens > _LARGEST["max_position_embeddings"]:
        raise ValueError(f"the rope's factor is {rope.factor}, which makes {stretched_tokens} positions")
    return ModelConfig(
        architecture=architecture,
        vocab_size=_size(raw, "vocab_size"),
        hidden_size=_size(raw, "hidden_size"),
        intermediate_size=_size(raw, "intermediate_size"),
        num_layers=_size(raw, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=int(raw.get("head_dim") or family.default_head_dim or raw["hidden_size"] // num_heads),
        rms_norm_eps=float(raw.get("rms_norm_eps", 1e-6)),
        rope=rope,
        context_tokens=max(_size(raw, "max_position_embeddings"), stretched_tokens),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        qkv_bias=family.qkv_bias or attention_bias,
        output_bias=attention_bias,
        mlp_bias=bool(raw.get("mlp_bias", False)),
        qk_norm=family.qk_norm,
        sliding_windows=_sliding_windows(raw, family),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "bfloat16"),
    )


def _check_sizes(raw: dict[str, Any]) -> None:
    """Refuse by name what no model has, before anything is made in that size, here or by transformers."""
    for name, most in _LARGEST.items():
        value = raw.get(name)
        if isinstance(value, str) or (isinstance(value, int | float) and not 0 <= value <= most):
            raise ValueError(f"{name} is {value!r:.300}; a number between 0 and {most} is believed")


def _size(raw: dict[str, Any], name: str) -> int:
    """A size that must be there and cannot be zero."""
    value = int(raw[name])
    if value < 1:
        raise ValueError(f"{name} is {value}")
    return value


def _architecture(raw: dict[str, Any]) -> str:
    return str((raw.get("architectures") or ["none"])[0])


def _sliding_windows(raw: dict[str, Any], family: Family) -> tuple[int | None, ...]:
    """Window of each layer, None for full attention. Qwen has it off, and for upper layers only, by default."""
    num_layers = _size(raw, "num_hidden_layers")
    window = raw.get("sliding_window", family.default_sliding_window)
    if family.optional_sliding_window:
        first = int(raw.get("max_window_layers", 28))
        window = window if raw.get("use_sliding_window", False) else None
        kinds = raw.get("layer_types") or [
            "sliding_attention" if index >= first else "full_attention" for index in range(num_layers)
        ]
        if len(kinds) != num_layers:
            raise ValueError(f"layer_types has {len(kinds)} entries, and num_hidden_layers is {num_layers}")
        return tuple(window if kind == "sliding_attention" else None for kind in kinds)
    return (window if family.default_sliding_window else None,) * num_layers
