from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handler.engine.linear import quantise_rows
from handler.engine.quantised import (
    interleave,
    pack_rows,
    quantised_specs,
    quantised_tensors,
    separate,
    unpack_rows,
)
from handler.engine.rotation import Rotation
from handler.engine.weights.specs import TensorSpec
from handler.errors import CorruptSnapshotError
from tests.engine.checkpoints import checkpoint, watched
from tests.tiny_models import VARIANTS


@settings(max_examples=40)
@given(rows=st.integers(1, 50), columns=st.integers(1, 70), seed=st.integers(0, 99))
def test_packing_loses_nothing_and_pads_with_zeros(rows: int, columns: int, seed: int) -> None:
    weight = torch.randint(-127, 128, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    packed = pack_rows(weight)
    assert torch.equal(unpack_rows(packed, rows, columns), weight)
    padded_rows, padded_columns = packed.shape[0] * 16, packed.shape[1] * 4
    assert (padded_rows % 16, padded_columns % 16) == (0, 0)
    whole = unpack_rows(packed, padded_rows, padded_columns)
    assert whole.count_nonzero() == weight.count_nonzero()


def test_a_block_holds_four_inputs_of_sixteen_rows_side_by_side() -> None:
    weight = (torch.arange(32 * 16) % 251 - 125).to(torch.int8).view(32, 16)
    packed = pack_rows(weight)
    assert packed[1, 2, 5].tolist() == [int(weight[16 + 5, 8 + i]) + 128 for i in range(4)]


@pytest.mark.parametrize("inner", [16, 48, 24])
def test_gate_and_up_come_by_turns_and_back(inner: int) -> None:
    rows = torch.arange(2 * inner)
    mixed = interleave(rows)
    assert torch.equal(separate(mixed), rows)
    if inner % 16 == 0:
        assert mixed[:32].tolist() == [*range(16), *range(inner, inner + 16)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_specs_say_what_comes(variant: str) -> None:
    config, tensors = checkpoint(variant)
    quantised = dict(quantised_tensors(config, tensors.items()))
    found = {TensorSpec(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in quantised.items()}
    assert found == set(quantised_specs(config))
    assert all(tensor.is_contiguous() for tensor in quantised.values())


def test_a_layer_is_rotated_on_the_side_of_the_residual_stream() -> None:
    config, tensors = checkpoint("llama-biases")
    quantised = dict(quantised_tensors(config, tensors.items()))
    rotation = Rotation(config.hidden_size).matrix()
    norm = tensors["model.layers.1.input_layernorm.weight"]
    query = tensors["model.layers.1.self_attn.q_proj.weight"] * norm @ rotation
    weight = unpack_rows(quantised["1.qkv.weight"], 128, 64) * quantised["1.qkv.scale"][:, None]
    torch.testing.assert_close(weight[:64], query, atol=float(query.abs().max()) / 200, rtol=0)
    output = rotation.T @ tensors["model.layers.1.self_attn.o_proj.weight"]
    weight = unpack_rows(quantised["1.output.weight"], 64, 64) * quantised["1.output.scale"][:, None]
    torch.testing.assert_close(weight, output, atol=float(output.abs().max()) / 200, rtol=0)
    torch.testing.assert_close(quantised["1.output.bias"], tensors["model.layers.1.self_attn.o_proj.bias"] @ rotation)
    embedding = tensors["model.embed_tokens.weight"] @ rotation
    torch.testing.assert_close(quantised["embedding"].float(), embedding, atol=1e-3, rtol=1e-3)


def test_scales_are_those_of_the_rows() -> None:
    config, tensors = checkpoint("llama")
    quantised = dict(quantised_tensors(config, tensors.items()))
    head = Rotation(64).columns(tensors["lm_head.weight"] * tensors["model.norm.weight"])
    rows, scales = quantise_rows(head)
    assert torch.equal(quantised["head.scale"], scales.squeeze(1))
    assert torch.equal(unpack_rows(quantised["head.weight"], *head.shape), rows)


def test_a_missing_norm_is_named() -> None:
    config, tensors = checkpoint("llama")
    del tensors["model.layers.2.post_attention_layernorm.weight"]
    with pytest.raises(CorruptSnapshotError, match=r"the first is model\.layers\.2\.post_attention_layernorm\.weight"):
        list(quantised_tensors(config, tensors.items()))


def test_stored_tensors_are_let_go_as_soon_as_their_parameter_stands() -> None:
    config, tensors = checkpoint("llama")
    for _ in quantised_tensors(config, watched(tensors)):
        pass
