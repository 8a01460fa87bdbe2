"""The device side of a step: turns a batch of chunks into tensors, runs the decoder, samples.

Owned by the engine thread. Knows the model, the cache and the sampler; decides nothing about who runs.
"""

from __future__ import annotations

import torch

from handler.engine.attention import PagedAttention
from handler.engine.kv_cache import KvCache
from handler.engine.model import Decoder
from handler.engine.sampler import Sampler
from handler.engine.types import Batch, SampledToken, Sequence


class FinishedStep:
    """A step whose tokens are known."""

    def __init__(self, sampled: list[tuple[Sequence, list[SampledToken]]]) -> None:
        self._sampled = sampled

    def wait(self) -> list[tuple[Sequence, list[SampledToken]]]:
        """The tokens, at once."""
        return self._sampled


class TorchRunner:
    """Runs steps on any device, each to its end before `launch` returns."""

    runs_ahead = False

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        attention: PagedAttention,
        sampler: Sampler,
        device: torch.device,
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._attention = attention
        self._sampler = sampler
        self._device = device

    @torch.inference_mode()
    def launch(self, batch: Batch) -> FinishedStep:
        """Compute all chunks of `batch`; one token for each chunk that reaches the end of its sequence."""
        batch = self._attention.order(batch)
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampling: list[Sequence] = []
        last_rows: list[int] = []
        for chunk in batch:
            sequence, end = chunk.sequence, chunk.start + chunk.length
            tokens += sequence.tokens[chunk.start : end]
            positions += range(chunk.start, end)
            slots += self._slots(sequence.block_table, chunk.start, end)
            if chunk.samples:
                sampling.append(sequence)
                last_rows.append(len(tokens) - 1)
        rows = torch.tensor([tokens, positions, slots]).to(self._device, non_blocking=True)
        tiles = self._attention.plan(batch)
        hidden = self._decoder.forward(rows[0], rows[1], rows[2], tiles, self._attention, self._cache)
        if not sampling:
            return FinishedStep([])
        logits = self._decoder.logits(hidden[torch.tensor(last_rows).to(self._device)])
        tokens_of = zip(sampling, self._sampler.sample(logits, sampling), strict=True)
        return FinishedStep([(sequence, [token]) for sequence, token in tokens_of])

    def idle(self) -> None:
        """Nothing is prepared ahead of time here."""

    def _slots(self, block_table: list[int], start: int, end: int) -> list[int]:
        size = self._cache.block_size
        return [block_table[position // size] * size + position % size for position in range(start, end)]
