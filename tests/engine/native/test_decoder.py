"""The kernels against torch's own operations, and against themselves under every way of cutting the work."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import torch
from torch import Tensor

from handler.engine.attention import TILE, PagedAttention
from handler.engine.config import ModelConfig
from handler.engine.kv_cache import KvCache
from handler.engine.loader import load_int8_decoder
from handler.engine.native.decoder import NativeDecoder, Span
from handler.engine.native.library import load_kernels
from handler.engine.precision import Precision
from handler.engine.quantised import quantised_tensors
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import Chunk
from handler.errors import ConfigurationError
from tests.conftest import LoadTiny
from tests.engine.checkpoints import checkpoint
from tests.tiny_models import VARIANTS

pytestmark = pytest.mark.skipif(load_kernels() is None, reason="no int8 kernels: no C compiler, or not for this CPU")

NUM_BLOCKS = 64


def native(variant: str, threads: int = 2) -> tuple[ModelConfig, dict[str, Tensor], NativeDecoder]:
    config, tensors = checkpoint(variant)
    quantised = dict(quantised_tensors(config, tensors.items()))
    assert NativeDecoder.fits(config)
    decoder = NativeDecoder(config, quantised, num_blocks=NUM_BLOCKS, max_positions=1024, max_rows=600, threads=threads)
    return config, quantised, decoder


def prompt(length: int, seed: int = 0) -> list[int]:
    return [random.Random(seed).randrange(256) for _ in range(length)] if seed else [i * 7 % 256 for i in range(length)]


def table(number: int) -> list[int]:
    """Blocks of one of four sequences, in no order."""
    blocks = list(range(1 + 15 * number, 16 + 15 * number))
    random.Random(number).shuffle(blocks)
    return blocks


class HalfKvCache(KvCache):
    """Holds what half precision keeps, as the kernels' cache does."""

    def write(self, layer: int, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        super().write(layer, keys.half().float(), values.half().float(), slots)


def by_torch(config: ModelConfig, quantised: dict[str, Tensor], tokens: list[int]) -> Tensor:
    """Logits after each token by the decoder in torch."""
    precision = Precision(torch.device("cpu"), torch.float32, "int8")
    decoder = load_int8_decoder(config, quantised, precision, 1024)
    cache = HalfKvCache(config, NUM_BLOCKS, 32, precision.device, precision.dtype)
    attention = PagedAttention(config.sliding_windows, 32, precision.device, precision.dtype)
    sequence = Sequence(0, tokens, SamplingParams(max_tokens=1))
    sequence.block_table = list(range(1, 1 + -(-len(tokens) // TILE) * TILE // 32))
    tiles = attention.plan([Chunk(sequence, 0, len(tokens))])
    positions = torch.arange(len(tokens))
    with torch.inference_mode():
        hidden = decoder.forward(torch.tensor(tokens), positions, positions + 32, tiles, attention, cache)
        return decoder.logits(hidden)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_decoder_in_torch(variant: str) -> None:
    config, quantised, decoder = native(variant)
    tokens = prompt(300)
    found = decoder.forward(tokens, [(300, 0, table(0))], list(range(300)))
    expected = by_torch(config, quantised, tokens)
    # Not zero: here and there a last bit tips an activation over into the next of its 255 steps.
    error = (found - expected).abs().mean(dim=1) / expected.std(dim=1)
    assert float(error.mean()) < 0.02
    assert float(error.max()) < 0.1


@pytest.mark.parametrize("variant", ["llama", "mistral-window", "qwen2-window", "qwen3", "llama-head-dim"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_row_has_the_same_bits_however_the_work_is_cut(variant: str, threads: int) -> None:
    _, _, decoder = native(variant, threads)
    tokens = prompt(300)
    whole = decoder.forward(tokens, [(300, 0, table(0))], list(range(300))).clone()
    # In chunks, beside another sequence's chunk.
    rows, start = [], 0
    for length in (1, 63, 100, 7, 129):
        others = prompt(length % 50 + 1, seed=9)
        spans: list[Span] = [(length, start, table(1)), (len(others), start, table(2))]
        logits = decoder.forward(tokens[start : start + length] + others, spans, list(range(length)))
        rows.append(logits.clone())
        start += length
    assert torch.equal(torch.cat(rows), whole)
    # Token by token, in a batch whose other members change.
    for position in range(290, 300):
        members: list[Span] = [(1, position, table(1)), (1, 5, table(2)), (1, 200, table(3))]
        number = position % 3
        order = members[number:] + members[:number]
        rest = [tokens[position], 17, 99]
        logits = decoder.forward(rest[number:] + rest[:number], order, [(3 - number) % 3])
        assert torch.equal(logits[0], whole[position])
    # And behind a prefix that another sequence computed.
    logits = decoder.forward(tokens[256:], [(44, 256, table(0)[:8] + table(3)[:2])], list(range(44)))
    assert torch.equal(logits, whole[256:])


def test_the_number_of_threads_changes_no_bit() -> None:
    tokens = prompt(200)
    results = [native("llama", threads)[2].forward(tokens, [(200, 0, table(0))], [0, 199]) for threads in (1, 2, 5)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_step_that_wants_no_logits_only_fills_the_cache() -> None:
    _, _, decoder = native("llama")
    tokens = prompt(40)
    whole = decoder.forward(tokens, [(40, 0, table(0))], [39]).clone()
    assert decoder.forward(tokens[:39], [(39, 0, table(1))], []).shape == (0, 259)
    assert torch.equal(decoder.forward(tokens[39:], [(1, 39, table(1))], [0]), whole)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_no_number_comes_out_as_none_and_stays_in_its_row(bad: float) -> None:
    config, tensors = checkpoint("llama")
    quantised = dict(quantised_tensors(config, tensors.items()))
    spans: list[Span] = [(1, 0, table(0)), (1, 0, table(1))]

    def logits() -> Tensor:
        decoder = NativeDecoder(config, quantised, num_blocks=NUM_BLOCKS, max_positions=64, max_rows=8, threads=2)
        return decoder.forward([7, 8], spans, [0, 1]).clone()

    good = logits()
    quantised["embedding"][7, 3] = bad
    spoilt = logits()
    assert spoilt[0].isnan().all()
    assert torch.equal(spoilt[1], good[1])


@pytest.mark.parametrize("changes", [{"head_dim": 24}, {"intermediate_size": 40}, {"num_heads": 49, "num_kv_heads": 1}])
def test_a_shape_that_the_kernels_do_not_know_is_left_to_torch(changes: dict[str, Any]) -> None:
    config, _ = checkpoint("llama")
    assert NativeDecoder.fits(config)
    assert not NativeDecoder.fits(msgspec.structs.replace(config, **changes))


def test_more_rows_than_the_kernels_can_count_are_refused_by_name(load_tiny: LoadTiny) -> None:
    with pytest.raises(ConfigurationError, match="the int8 kernels take 131071 rows") as caught:
        load_tiny(dtype="auto", prefill_chunk_tokens=1 << 18)
    assert caught.value.key == "PREFILL_CHUNK_TOKENS"
