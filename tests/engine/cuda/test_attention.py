from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from handler.engine.cuda.attention import DecodeRows, PagedKernels, Prompts, StepPlan, gather_decode, gather_prompts
from tests.engine.cuda.running import cache_of

CPU = torch.device("cpu")
BLOCK, KV_HEADS, HEADS, DIM = 16, 2, 6, 8
WINDOWS = (None, 20)


def attend_one(queries: Tensor, keys: Tensor, values: Tensor, end: int, window: int | None) -> Tensor:
    """Row by row and head by head in float64: `queries` (T, H, D) of positions up to `end`, keys (end, K, D)."""
    out = torch.zeros(queries.shape, dtype=torch.float64)
    for row, query in enumerate(queries.double()):
        last = end - len(queries) + row
        first = 0 if window is None else max(0, last + 1 - window)
        for head in range(HEADS):
            seen = slice(first, last + 1)
            weights = (keys[seen, head * KV_HEADS // HEADS].double() @ query[head] / DIM**0.5).softmax(dim=0)
            out[row, head] = weights @ values[seen, head * KV_HEADS // HEADS].double()
    return out.flatten(1).float()


@pytest.mark.parametrize("layer", [0, 1])
def test_single_rows_and_chunks_see_their_own_keys_and_no_others(layer: int) -> None:
    generator = torch.Generator().manual_seed(0)
    cache = cache_of(KV_HEADS, DIM, BLOCK, torch.float32, CPU)
    cache.keys = [torch.randn(40, BLOCK, KV_HEADS, DIM, generator=generator) for _ in WINDOWS]
    cache.values = [torch.randn(40, BLOCK, KV_HEADS, DIM, generator=generator) for _ in WINDOWS]
    blocks = random.Random(0).sample(range(40), 30)
    tables = torch.tensor(blocks, dtype=torch.int32).view(5, 6)
    lengths, spans = [1, 70, 33], [(5, 20), (64, 64)]
    queries = torch.randn(3 + 69, HEADS, DIM, generator=generator)
    plan = StepPlan(
        3,
        DecodeRows(tables[:3], torch.tensor(lengths, dtype=torch.int32)),
        Prompts(tables[3:], torch.tensor([0, 5, 69]), torch.tensor([20, 64]), spans),
    )
    found = PagedKernels(WINDOWS, gather_decode, gather_prompts).attend(layer, queries, cache, plan)
    first = 0
    for index, (rows, end) in enumerate([*((1, length) for length in lengths), *spans]):
        keys = cache.keys[layer][tables[index].long()].flatten(0, 1)
        values = cache.values[layer][tables[index].long()].flatten(0, 1)
        expected = attend_one(queries[first : first + rows], keys, values, end, WINDOWS[layer])
        torch.testing.assert_close(found[first : first + rows], expected, rtol=1e-4, atol=1e-5)
        first += rows
