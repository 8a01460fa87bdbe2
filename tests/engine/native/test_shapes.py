"""The kernels on shapes that no tiny model has: every remainder of a vector, a group and a page."""

from __future__ import annotations

import pytest
import torch

from handler.engine.config import ModelConfig
from handler.engine.native.decoder import NativeDecoder, Span
from handler.engine.native.library import load_kernels
from handler.engine.parameters import parameters
from handler.engine.quantised import quantised_tensors
from handler.engine.rope_config import RopeConfig
from tests.engine.native.test_decoder import NUM_BLOCKS, by_torch, table

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="no int8 kernels: no C compiler, or not for this CPU")


def shaped(hidden: int, inner: int, kv_heads: int, group: int, head_dim: int, vocab: int) -> ModelConfig:
    return ModelConfig(
        architecture="LlamaForCausalLM", vocab_size=vocab, num_layers=2, num_kv_heads=kv_heads, head_dim=head_dim,
        sliding_windows=(None, 33), context_tokens=1024, hidden_size=hidden, intermediate_size=inner,
        num_heads=kv_heads * group, rms_norm_eps=1e-5, rope=RopeConfig(theta=1e4), tie_word_embeddings=False,
        qkv_bias=True, output_bias=True, mlp_bias=True, qk_norm=True, dtype="float32",
    )  # fmt: skip


@pytest.mark.parametrize(
    "shape",
    [(100, 48, 2, 1, 128, 300), (31, 16, 1, 5, 80, 1001), (63, 176, 3, 7, 48, 17), (40, 32, 1, 48, 16, 259),
     (17, 16, 5, 1, 256, 2), (576, 1536, 3, 3, 64, 1000), (16, 16, 2, 2, 96, 15)],
)  # fmt: skip
def test_odd_shapes_are_those_of_torch_and_do_not_depend_on_the_cut(shape: tuple[int, ...]) -> None:
    config = shaped(*shape)
    torch.manual_seed(0)
    tensors = {}
    for parameter in parameters(config):
        for name, size in parameter.stored.items():
            tensors[name] = torch.randn(size) * (0.2 if len(size) > 1 else 1.0) + (parameter.kind == "norm")
    quantised = dict(quantised_tensors(config, tensors.items()))
    assert NativeDecoder.fits(config)
    decoder = NativeDecoder(config, quantised, num_blocks=NUM_BLOCKS, max_positions=512, max_rows=200, threads=3)
    tokens = [i * 7 % config.vocab_size for i in range(161)]
    whole = decoder.forward(tokens, [(161, 0, table(0))], list(range(161))).clone()
    expected = by_torch(config, quantised, tokens)
    error = (whole - expected).abs().mean(dim=1) / expected.std(dim=1)
    assert float(error.mean()) < 0.05
    rows, start = [], 0
    for length in (1, 1, 2, 5, 32, 48, 1, 71):
        span: Span = (length, start, table(1))
        rows.append(decoder.forward(tokens[start : start + length], [span], list(range(length))).clone())
        start += length
    assert torch.equal(torch.cat(rows), whole)


def tiny() -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    config = shaped(64, 96, 2, 2, 16, 259)
    torch.manual_seed(0)
    tensors = {name: torch.randn(size) for p in parameters(config) for name, size in p.stored.items()}
    return config, dict(quantised_tensors(config, tensors.items()))


def test_a_block_that_held_what_is_no_number_is_as_good_as_new() -> None:
    config, quantised = tiny()
    quantised["embedding"][7, 3] = float("nan")
    decoder = NativeDecoder(config, quantised, num_blocks=NUM_BLOCKS, max_positions=512, max_rows=8, threads=2)
    alone = decoder.forward([8], [(1, 0, [2])], [0]).clone()
    decoder.forward([1, 2, 7], [(3, 0, [1])], [])
    assert torch.equal(decoder.forward([8], [(1, 0, [1])], [0]), alone)


def test_keys_beyond_half_precision_come_out_as_no_number() -> None:
    config, quantised = tiny()
    quantised["0.key_norm"] *= 1e9
    decoder = NativeDecoder(config, quantised, num_blocks=NUM_BLOCKS, max_positions=512, max_rows=8, threads=2)
    assert decoder.forward([1, 2], [(2, 0, [3])], [1]).isnan().all()
