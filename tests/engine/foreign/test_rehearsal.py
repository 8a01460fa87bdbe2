from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    sliding_window_causal_mask_function,
)

from handler.engine.foreign.interface import REHEARSED, register
from handler.engine.foreign.refusal import Unsuitable
from handler.engine.foreign.rehearsal import Rehearsal, rehearse, window_of
from tests.tiny_models import FOREIGN_VARIANTS, SHAPE

CONTEXT = 1024


def rehearsed(config_class: str, model_class: str, **overrides: Any) -> Rehearsal:
    register()
    config = getattr(transformers, config_class)(**(SHAPE | overrides))
    with torch.device("meta"):
        model = getattr(transformers, model_class)._from_config(config, attn_implementation=REHEARSED)
    return rehearse(model.eval(), CONTEXT)


@given(context=st.integers(1, 300), window=st.integers(1, 400))
def test_a_window_is_read_off_its_mask(context: int, window: int) -> None:
    expected = window if window < context else None
    assert window_of(sliding_window_causal_mask_function(window), context) == expected
    assert window_of(causal_mask_function, context) is None


def chunked(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query) & (key // 8 == query // 8)


def dilated(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query) & ((query - key) % 2 == 0)


def strictly_earlier(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return key < query


def with_sinks(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    return (key <= query) & ((key > query - 16) | (key < 4))


@pytest.mark.parametrize("mask", [bidirectional_mask_function, chunked, dilated, strictly_earlier, with_sinks])
@pytest.mark.parametrize("context", [64, 100, 1024])
def test_any_other_mask_is_refused(mask: Any, context: int) -> None:
    with pytest.raises(Unsuitable, match="neither causal nor a sliding window"):
        window_of(mask, context)


def test_the_layers_are_seen_as_they_attend() -> None:
    config_class, model_class, overrides = FOREIGN_VARIANTS["gemma2"]
    seen = rehearsed(config_class, model_class, **overrides)
    assert seen.vocab_size == SHAPE["vocab_size"]
    assert [call.module for call in seen.calls] == [f"model.layers.{layer}.self_attn" for layer in range(4)]
    assert [call.window for call in seen.calls] == [40, None, 40, None]
    assert {(call.num_kv_heads, call.key_dim, call.value_dim) for call in seen.calls} == {(2, 16, 16)}


def test_keys_and_values_of_unlike_size_are_seen() -> None:
    config_class, model_class, overrides = FOREIGN_VARIANTS["deepseek-v3"]
    calls = rehearsed(config_class, model_class, **overrides, experts_implementation="batched_mm").calls
    assert {(call.num_kv_heads, call.key_dim, call.value_dim) for call in calls} == {(4, 24, 12)}


@pytest.mark.parametrize(
    ("config_class", "model_class", "overrides", "reason"),
    [
        ("GptOssConfig", "GptOssForCausalLM", {"head_dim": 16, "num_local_experts": 2}, "attention asks for s_aux"),
        ("DogeConfig", "DogeForCausalLM", {}, "attention has a mask of its own"),
        ("BertConfig", "BertLMHeadModel", {}, "neither causal nor a sliding window"),
        ("DiffLlamaConfig", "DiffLlamaForCausalLM", {}, "6 calls of 3 attention modules are made by its 3 layers"),
        ("Gemma4TextConfig", "Gemma4ForCausalLM", {}, "heads of different number or size"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(
    config_class: str, model_class: str, overrides: dict[str, Any], reason: str
) -> None:
    with pytest.raises(Unsuitable, match=reason):
        rehearsed(config_class, model_class, **overrides)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_causal": False}, "not causal"),
        ({"position_bias": torch.zeros(1)}, "asks for position_bias"),
        ({"dropout": 0.1}, "asks for dropout"),
        ({"sliding_window": 7}, "states a sliding window of 7 tokens, but its mask shows None"),
    ],
)
def test_an_argument_that_is_not_done_is_refused_by_name(
    changes: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a Phi whose attention asks for more than it does."""
    from transformers.models.phi import modeling_phi  # noqa: PLC0415

    interface = modeling_phi.ALL_ATTENTION_FUNCTIONS.get_interface

    def asking(name: str, default: Any) -> Any:
        attend = interface(name, default)
        return lambda *positional, **arguments: attend(*positional, **(arguments | changes))

    monkeypatch.setattr(modeling_phi.ALL_ATTENTION_FUNCTIONS, "get_interface", asking)
    with pytest.raises(Unsuitable, match=reason):
        rehearsed("PhiConfig", "PhiForCausalLM")
