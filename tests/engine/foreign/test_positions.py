from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from handler.engine.foreign.positions import context_tokens, hold_frequencies
from handler.engine.foreign.refusal import Unsuitable
from tests.tiny_models import LONG_ROPE, SHAPE, make_model

PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
YARN_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}


@pytest.mark.parametrize(
    ("config_class", "rope", "tokens"),
    [
        ("PhiConfig", PLAIN_ROPE, 1024),
        ("PhiConfig", YARN_ROPE, 1024),
        ("PhiConfig", DYNAMIC_ROPE, 1024),
        ("Phi3Config", LONG_ROPE, 256),
        ("Gemma3TextConfig", {"full_attention": LONG_ROPE, "sliding_attention": PLAIN_ROPE}, 256),
        ("GPT2Config", None, 1024),
    ],
)
def test_a_context_ends_where_the_frequencies_would_change(
    config_class: str, rope: dict[str, Any] | None, tokens: int
) -> None:
    overrides = {"head_dim": 16, "original_max_position_embeddings": 256}
    overrides |= {} if rope is None else {"rope_parameters": rope}
    assert context_tokens(getattr(transformers, config_class)(**(SHAPE | overrides))) == tokens


def test_a_model_that_does_not_say_how_far_its_positions_reach_is_refused() -> None:
    with pytest.raises(Unsuitable, match="max_position_embeddings"):
        context_tokens(transformers.PretrainedConfig())


@pytest.mark.parametrize("variant", ["phi3-long-rope", "phi-dynamic-rope"])
def test_held_frequencies_do_not_depend_on_the_longest_position(variant: str) -> None:
    model = make_model(variant)
    rope = model.model.rotary_emb
    short = torch.arange(8)[None]
    far = torch.cat((short, torch.tensor([[4000]])), dim=1)
    x = torch.zeros(1)
    expected = rope(x, short)[0].clone()
    assert not rope(x, far)[0][:, :8].equal(expected)
    rope(x, short)
    hold_frequencies(model)
    assert rope(x, far)[0][:, :8].equal(expected)
    assert rope(x, short)[0].equal(expected)
