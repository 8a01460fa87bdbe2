from __future__ import annotations

import itertools
import math
import random

import pytest
import torch
from torch import Tensor

from handler.engine.attention import TILE, PagedAttention
from handler.engine.config import parse_config
from handler.engine.kv_cache import KvCache
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import Chunk

pytestmark = pytest.mark.usefixtures("several_threads")

CPU = torch.device("cpu")
BLOCK = 32
HEADS, KV_HEADS, HEAD_DIM = 6, 2, 16  # three rows a group: a number that needs filling up
WINDOWS: tuple[int | None, ...] = (None, 40, 1)
CONFIG = parse_config(
    {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 96,
        "intermediate_size": 96,
        "num_hidden_layers": len(WINDOWS),
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": 512,
    }
)


class Step:
    """Chunks over a cache full of random numbers, and their queries."""

    def __init__(self, spans: list[tuple[int, int]], seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        numbers = random.Random(seed)
        self.cache = KvCache(CONFIG, 120, BLOCK, CPU, torch.float32)
        for tensor in self.cache.keys + self.cache.values:
            tensor.normal_(generator=generator)
        free = numbers.sample(range(1, 120), 119)
        self.chunks = []
        for number, (start, length) in enumerate(spans):
            sequence = Sequence(number, [0] * (start + length), SamplingParams(max_tokens=1))
            sequence.block_table = [free.pop() for _ in range(-(-(start + length) // BLOCK))]
            self.chunks.append(Chunk(sequence, start, length))
        self.queries = {
            chunk.sequence.id: torch.randn(chunk.length, HEADS, HEAD_DIM, generator=generator) for chunk in self.chunks
        }
        self.attention = PagedAttention(WINDOWS, BLOCK, CPU, torch.float32)

    def attend(self, layer: int, chunks: list[Chunk], **scores: float) -> dict[int, Tensor]:
        """The result of a step of these chunks, by sequence id. `scores` are what may be done to these."""
        ordered = self.attention.order(chunks)
        queries = torch.cat([self.queries[chunk.sequence.id] for chunk in ordered])
        out = self.attention.attend(layer, queries, self.cache, self.attention.plan(ordered), **scores)
        rows = out.split([chunk.length for chunk in ordered])
        return {chunk.sequence.id: part for chunk, part in zip(ordered, rows, strict=True)}

    def naive(self, layer: int, chunk: Chunk, scale: float = HEAD_DIM**-0.5, softcap: float = math.inf) -> Tensor:
        """Row by row and head by head, in float64."""
        window = WINDOWS[layer]
        table = chunk.sequence.block_table
        keys, values = (cache[layer][table].flatten(0, 1).double() for cache in (self.cache.keys, self.cache.values))
        rows = []
        for row, position in enumerate(range(chunk.start, chunk.start + chunk.length)):
            first = 0 if window is None else max(0, position - window + 1)
            for head in range(HEADS):
                kv_head = head // (HEADS // KV_HEADS)
                seen = slice(first, position + 1)
                query = self.queries[chunk.sequence.id][row, head].double()
                found = keys[seen, kv_head] @ query * scale
                found = found if softcap == math.inf else softcap * (found / softcap).tanh()
                rows.append(found.softmax(dim=0) @ values[seen, kv_head])
        return torch.stack(rows).view(chunk.length, -1).float()


MIXED = [(0, 1), (5, 1), (130, 1), (127, 1), (128, 1), (64, 1), (0, 17), (128, 60), (0, 200), (256, 128), (300, 1)]


@pytest.mark.parametrize("layer", range(len(WINDOWS)))
def test_every_row_sees_what_it_should(layer: int) -> None:
    step = Step(MIXED)
    out = step.attend(layer, step.chunks)
    for chunk in step.chunks:
        torch.testing.assert_close(out[chunk.sequence.id], step.naive(layer, chunk), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scores", [{}, {"softcap": 1.5}])
@pytest.mark.parametrize("layer", range(len(WINDOWS)))
def test_a_sequence_has_the_same_bits_whatever_shares_its_step(layer: int, scores: dict[str, float]) -> None:
    step = Step(MIXED)
    together = step.attend(layer, step.chunks, **scores)
    reversed_order = step.attend(layer, step.chunks[::-1], **scores)
    for chunk in step.chunks:
        alone = step.attend(layer, [chunk], **scores)[chunk.sequence.id]
        assert torch.equal(alone, together[chunk.sequence.id])
        assert torch.equal(alone, reversed_order[chunk.sequence.id])


def test_a_prompt_has_the_same_bits_however_it_is_cut_at_tiles() -> None:
    step = Step([(0, 300)])
    [whole] = step.chunks
    expected = step.attend(1, [whole])[0]
    everything = step.queries[0]
    for cuts in ([0, 128, 300], [0, 256, 300], [0, 128, 256, 300]):
        parts = []
        for start, end in itertools.pairwise(cuts):
            step.queries[0] = everything[start:end]
            parts.append(step.attend(1, [Chunk(whole.sequence, start, end - start)])[0])
        assert torch.equal(torch.cat(parts), expected)


def test_what_lies_in_padding_and_in_other_blocks_is_not_seen() -> None:
    step = Step([(20, 1), (40, 90)])
    before = step.attend(0, step.chunks)
    own = {block for chunk in step.chunks for block in chunk.sequence.block_table}
    for tensor in step.cache.keys + step.cache.values:
        tensor[[block for block in range(120) if block not in own]] = 1e30
        tensor[step.chunks[0].sequence.block_table[0], 21:] = -1e30  # later tokens of its own block
    after = step.attend(0, step.chunks)
    assert all(torch.equal(before[number], after[number]) for number in before)


def test_tiles_cover_the_rows_without_gap() -> None:
    step = Step(MIXED)
    ordered = step.attention.order(step.chunks)
    tiles = step.attention.plan(ordered)
    assert [tile.first for tile in tiles] == [0, *(tile.last for tile in tiles[:-1])]
    assert tiles[-1].last == sum(chunk.length for chunk in step.chunks)
    assert all(tile.block_tables.shape[1] * BLOCK % TILE == 0 for tile in tiles)


@pytest.mark.parametrize("scores", [{"scale": 0.7}, {"softcap": 1.5}, {"scale": 0.7, "softcap": 1.5}])
@pytest.mark.parametrize("layer", [0, 1])
def test_scores_are_scaled_and_capped_as_asked(layer: int, scores: dict[str, float]) -> None:
    step = Step(MIXED)
    found = step.attend(layer, step.chunks, **scores)
    for chunk in step.chunks:
        torch.testing.assert_close(found[chunk.sequence.id], step.naive(layer, chunk, **scores), rtol=1e-4, atol=1e-5)
