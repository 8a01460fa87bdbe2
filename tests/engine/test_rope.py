from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from handler.engine.config import parse_config
from handler.engine.rope import RotaryEmbedding, inverse_frequencies, rotate
from handler.engine.rope_config import RopeConfig

HEAD_DIM = 64
LLAMA31 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"rope_type": "linear", "factor": 2.5},
    "llama 3.1": LLAMA31,
    "llama 3.2": LLAMA31 | {"factor": 32.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
    "yarn betas": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 4096,
        "beta_fast": 64.0,
        "beta_slow": 2.0,
    },
    "yarn untruncated": {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "yarn factor given": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 4096,
        "attention_factor": 1.25,
    },
    "yarn mscales": {
        "rope_type": "yarn",
        "factor": 40.0,
        "original_max_position_embeddings": 4096,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
    },
}


def configurations(scaling: dict[str, Any], theta: float, *, legacy: bool) -> tuple[RopeConfig, Any]:
    """Ours and transformers' from the same config.json, in the old form or the new one."""
    raw: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 4 * HEAD_DIM,
        "intermediate_size": 96,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "max_position_embeddings": 131072,
    }
    if legacy:
        old = {("type" if key == "rope_type" else key): value for key, value in scaling.items()}
        raw |= {"rope_theta": theta, "rope_scaling": old or None}
    else:
        raw["rope_parameters"] = {"rope_type": "default", "rope_theta": theta} | scaling
    return parse_config(raw).rope, transformers.LlamaConfig(**raw)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_those_of_transformers(name: str, theta: float, legacy: bool) -> None:
    ours, theirs = configurations(SCALINGS[name], theta, legacy=legacy)
    if name == "default":
        expected = (LlamaRotaryEmbedding(theirs).inv_freq, 1.0)
    else:
        expected = ROPE_INIT_FUNCTIONS[ours.rope_type](theirs, torch.device("cpu"))
    frequencies, scale = inverse_frequencies(ours, HEAD_DIM)
    torch.testing.assert_close(frequencies, expected[0], rtol=1e-6, atol=0)
    assert scale == pytest.approx(expected[1], rel=1e-12)


@pytest.mark.parametrize("name", ["default", "llama 3.1", "yarn"])
def test_heads_are_rotated_as_in_transformers(name: str) -> None:
    ours, theirs = configurations(SCALINGS[name], 10000.0, legacy=False)
    positions = torch.tensor([0, 1, 7, 4000, 131071, 3])
    queries, keys = torch.randn(6, 4, HEAD_DIM), torch.randn(6, 2, HEAD_DIM)
    cos, sin = LlamaRotaryEmbedding(theirs)(queries, positions.unsqueeze(0))
    expected_queries, expected_keys = apply_rotary_pos_emb(
        queries.transpose(0, 1).unsqueeze(0), keys.transpose(0, 1).unsqueeze(0), cos, sin
    )
    rope = RotaryEmbedding(ours, HEAD_DIM, 131072, torch.device("cpu"), torch.float32)
    rows = rope.rows(positions)
    torch.testing.assert_close(rotate(queries, rows), expected_queries[0].transpose(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rotate(keys, rows), expected_keys[0].transpose(0, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rotate(queries, rows)[0], queries[0] * rows[0][0, 0, 0])
