from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from handler.engine.config import ModelConfig
from handler.engine.loader import load_decoder
from handler.engine.model import Decoder
from handler.engine.parameters import parameters
from handler.engine.precision import Precision
from handler.errors import CorruptSnapshotError
from tests.engine.checkpoints import checkpoint, watched
from tests.tiny_models import VARIANTS

CPU = Precision(torch.device("cpu"), torch.float32, "none")


def load(config: ModelConfig, tensors: Iterable[tuple[str, Tensor]]) -> Decoder:
    return load_decoder(config, tensors, CPU, max_positions=64)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_holds_exactly_the_tensors_of_the_decoder(variant: str) -> None:
    config, tensors = checkpoint(variant)
    stored = {name: shape for parameter in parameters(config) for name, shape in parameter.stored.items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    assert stored == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.parametrize("variant", ["llama", "llama-biases", "qwen2", "qwen3"])
def test_any_missing_tensor_is_named(variant: str) -> None:
    config, tensors = checkpoint(variant)
    for name in tensors:
        with pytest.raises(CorruptSnapshotError, match=f"1 tensors are missing, the first is {name}"):
            load(config, ((other, tensor) for other, tensor in tensors.items() if other != name))


@pytest.mark.parametrize(
    "name", ["model.layers.3.mlp.up_proj.weight", "model.layers.0.self_attn.q_norm.weight", "score.weight"]
)
def test_a_tensor_that_has_no_place_is_named(name: str) -> None:
    config, tensors = checkpoint("llama")
    with pytest.raises(CorruptSnapshotError, match=f"tensor {name} does not belong to a LlamaForCausalLM"):
        load(config, (tensors | {name: torch.zeros(96, 64)}).items())


def test_a_bias_that_the_configuration_denies_is_named() -> None:
    config, _ = checkpoint("llama")
    _, tensors = checkpoint("llama-biases")
    with pytest.raises(CorruptSnapshotError, match=r"proj\.bias does not belong"):
        load(config, tensors.items())


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_a_tensor_of_the_wrong_shape_is_named_with_both(name: str) -> None:
    config, tensors = checkpoint("llama")
    right = tuple(tensors[name].shape)
    tensors[name] = tensors[name].T.contiguous()
    with pytest.raises(CorruptSnapshotError) as caught:
        load(config, tensors.items())
    assert str(caught.value) == f"tensor {name} is {right[::-1]}, expected {right}"


@pytest.mark.parametrize("name", ["model.norm.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_a_tensor_that_comes_twice_is_named(name: str) -> None:
    config, tensors = checkpoint("llama")
    with pytest.raises(CorruptSnapshotError, match=f"tensor {name} is stored twice"):
        load(config, [*tensors.items(), (name, tensors[name])])


def test_what_old_checkpoints_store_beside_is_passed_over() -> None:
    config, tensors = checkpoint("llama-tied")
    assert "lm_head.weight" in tensors
    load(config, (tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(8)}).items())


def test_stored_tensors_are_let_go_as_soon_as_their_parameter_stands() -> None:
    config, tensors = checkpoint("llama")
    load_decoder(config, watched(tensors), Precision(torch.device("cpu"), torch.bfloat16, "none"), max_positions=64)


def test_the_embedding_is_not_copied() -> None:
    config, tensors = checkpoint("llama-tied")
    decoder = load(config, tensors.items())
    assert decoder._embedding.data_ptr() == tensors["model.embed_tokens.weight"].data_ptr()
