from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from handler.engine.config import FAMILIES, ModelConfig, parse_config, read_config
from handler.errors import CorruptSnapshotError, UnsupportedModelError
from tests.tiny_models import VARIANTS, make_model

BARE: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 512,
    "intermediate_size": 96,
    "num_hidden_layers": 30,
    "num_attention_heads": 32,
    "max_position_embeddings": 512,
}
NAMES = {
    f"{name}ForCausalLM": getattr(transformers, f"{name}Config") for name in ("Llama", "Mistral", "Qwen2", "Qwen3")
}


def parse(architecture: str = "LlamaForCausalLM", **changes: Any) -> ModelConfig:
    return parse_config({"architectures": [architecture]} | BARE | changes)


def assert_agrees(config: ModelConfig, theirs: transformers.PretrainedConfig) -> None:
    assert config.num_kv_heads == theirs.num_key_value_heads
    assert config.head_dim == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert config.rms_norm_eps == theirs.rms_norm_eps
    assert config.tie_word_embeddings == theirs.tie_word_embeddings
    assert config.rope.theta == theirs.rope_parameters["rope_theta"]
    assert config.rope.rope_type == theirs.rope_parameters["rope_type"]
    assert config.output_bias == bool(getattr(theirs, "attention_bias", False))
    assert config.mlp_bias == bool(getattr(theirs, "mlp_bias", False))
    is_qwen = theirs.model_type in {"qwen2", "qwen3"}
    window = None if theirs.model_type == "llama" else theirs.sliding_window
    kinds = theirs.layer_types if is_qwen else ["sliding_attention"] * config.num_layers
    assert config.sliding_windows == tuple(window if kind == "sliding_attention" else None for kind in kinds)


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "head_dim": 24},
        {"sliding_window": None},
        {"sliding_window": 77},
        {"use_sliding_window": True},
        {"use_sliding_window": True, "sliding_window": 77, "max_window_layers": 3},
        {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 15},
        {"use_sliding_window": False, "sliding_window": 77, "max_window_layers": 3},
        {"tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    ],
)
def test_what_a_file_leaves_out_is_what_transformers_takes(architecture: str, changes: dict[str, Any]) -> None:
    theirs = NAMES[architecture](**(BARE | changes))
    assert_agrees(parse(architecture, **changes), theirs)


def test_no_number_of_key_heads_means_one_for_each_query_head() -> None:
    assert parse("MistralForCausalLM", num_key_value_heads=None).num_kv_heads == 32


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_transformers_saves_is_read_as_it_was(variant: str, tmp_path: Path) -> None:
    model = make_model(variant)
    theirs = model.config
    model.save_pretrained(tmp_path)
    config = read_config(tmp_path)
    assert config.architecture == f"{VARIANTS[variant][0]}ForCausalLM"
    assert config.dtype == "float32"
    assert config.qk_norm == variant.startswith("qwen3")
    assert config.qkv_bias == (variant.startswith("qwen2") or "biases" in variant)
    assert_agrees(config, theirs)


@pytest.mark.parametrize("form", ["rope_parameters", "rope_scaling"])
def test_both_forms_of_rope_scaling_mean_the_same(form: str) -> None:
    yarn = {"factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 16, "mscale": None}
    if form == "rope_parameters":
        config = parse(rope_parameters=yarn | {"rope_type": "yarn", "rope_theta": 5e5})
    else:
        config = parse(rope_scaling=yarn | {"type": "yarn"}, rope_theta=5e5)
    rope = config.rope
    assert (rope.rope_type, rope.theta, rope.factor, rope.beta_fast, rope.mscale) == ("yarn", 5e5, 4.0, 16.0, None)
    assert rope.original_max_position_embeddings == 128


def test_a_scaling_without_its_numbers_takes_them_from_the_lengths() -> None:
    rope = parse(rope_scaling={"rope_type": "yarn", "original_max_position_embeddings": 128}).rope
    assert (rope.factor, rope.original_max_position_embeddings) == (4.0, 128)
    rope = parse(rope_scaling={"rope_type": "linear", "factor": 2}).rope
    assert (rope.factor, rope.original_max_position_embeddings) == (2.0, 512)


@pytest.mark.parametrize(
    ("changes", "tokens"),
    [
        ({}, 512),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}}, 2048),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 1024),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            131072,
        ),
    ],
)
def test_the_context_is_as_long_as_the_positions_reach(changes: dict[str, Any], tokens: int) -> None:
    assert parse(**changes).context_tokens == tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "architecture 'GPT2LMHeadModel'; known: LlamaForCausalLM, MistralForCausalLM, "
            "Qwen2ForCausalLM, Qwen3ForCausalLM",
        ),
        ({"architectures": None}, "architecture 'none'; known: LlamaForCausalLM"),
        ({"architectures": []}, "architecture 'none'"),
        ({"hidden_act": "gelu"}, "activation 'gelu'; known: silu"),
        ({"rope_scaling": {"type": "dynamic"}}, "rope type 'dynamic'; known: default, linear, llama3, yarn"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope type 'longrope'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
    ],
)
def test_what_the_decoder_does_not_know_is_refused_with_what_it_knows(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        parse(**changes)


@pytest.mark.parametrize("field", BARE)
def test_a_missing_field_is_named(field: str, tmp_path: Path) -> None:
    raw = {"architectures": ["LlamaForCausalLM"]} | {key: value for key, value in BARE.items() if key != field}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CorruptSnapshotError, match=rf"config\.json: field '{field}' is missing"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        '{"architectures": ',
        json.dumps({"architectures": ["LlamaForCausalLM"]} | BARE | {"hidden_size": None}),
        json.dumps({"architectures": ["LlamaForCausalLM"]} | BARE | {"hidden_size": "wide"}),
        json.dumps(
            {"architectures": ["LlamaForCausalLM"]} | BARE | {"rope_scaling": {"type": "linear", "factor": "x"}}
        ),
        json.dumps({"architectures": ["LlamaForCausalLM"]} | BARE | {"num_key_value_heads": 5}),
    ],
)
def test_a_file_that_is_no_configuration_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CorruptSnapshotError, match=r"config\.json"):
        read_config(tmp_path)
