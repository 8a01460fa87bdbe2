"""The device side of a step: turns a batch of chunks into tensors, runs the decoder, samples.

Owned by the engine thread. Knows the model, the cache and the sampler; decides nothing about who runs.
"""

from __future__ import annotations

import torch

from handler.engine.architecture import AnyDecoder
from handler.engine.attention import PagedAttention
from handler.engine.events import TokenLogprob
from handler.engine.kv_cache import KvCache
from handler.engine.logprobs import score_hidden, scored_chunks
from handler.engine.sampler import Sampler
from handler.engine.sequence import Sequence
from handler.engine.step import Batch, Chunk, SampledToken


class FinishedStep:
    """A step whose tokens are known."""

    def __init__(
        self,
        sampled: list[tuple[Sequence, list[SampledToken]]],
        prompt_logprobs: list[tuple[Sequence, list[TokenLogprob]]],
    ) -> None:
        self._sampled = sampled
        self._prompt_logprobs = prompt_logprobs

    def wait(self) -> list[tuple[Sequence, list[SampledToken]]]:
        """The tokens, at once."""
        return self._sampled

    def prompt_logprobs(self) -> list[tuple[Sequence, list[TokenLogprob]]]:
        """Those of the step, at once."""
        return self._prompt_logprobs


class TorchRunner:
    """Runs steps on any device, each to its end before `launch` returns."""

    runs_ahead = False

    def __init__(
        self,
        decoder: AnyDecoder,
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
        """Compute all chunks of `batch`. The rows of a draft are computed as decoding sequences of their own."""
        spans = self._attention.order([span for chunk in batch for span in _spans(chunk)])
        drafts = {chunk.sequence: chunk.draft for chunk in batch if chunk.draft}
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        row_of: dict[tuple[Sequence, int], int] = {}  # of each span's last token, by its position
        for span in spans:
            sequence, end = span.sequence, span.start + span.length
            if span.start < len(sequence):
                tokens += sequence.tokens[span.start : end]
            else:
                tokens.append(drafts[sequence][span.start - len(sequence)])
            positions += range(span.start, end)
            slots += self._slots(sequence.block_table, span.start, end)
            row_of[sequence, end - 1] = len(tokens) - 1
        rows = torch.tensor([tokens, positions, slots]).to(self._device, non_blocking=True)
        tiles = self._attention.plan(spans)
        hidden = self._decoder.forward(rows[0], rows[1], rows[2], tiles, self._attention, self._cache)
        prompt_logprobs = []
        for chunk, offsets, wanted, num_top in scored_chunks(batch):
            first = row_of[chunk.sequence, chunk.start + chunk.length - 1] + 1 - chunk.length + offsets.start
            scored = hidden[first : first + len(offsets)]
            scores = score_hidden(scored, self._decoder.logits, torch.tensor(wanted, device=self._device), num_top)
            prompt_logprobs.append((chunk.sequence, scores.report()))
        sampling = [chunk for chunk in batch if chunk.samples]
        if not sampling:
            return FinishedStep([], prompt_logprobs)
        last_rows = [
            row_of[span.sequence, span.start + span.length - 1] for chunk in sampling for span in _spans(chunk)
        ]
        logits = self._decoder.logits(hidden[torch.tensor(last_rows).to(self._device)])
        return FinishedStep(self._sampler.sample_chunks(logits, sampling), prompt_logprobs)

    @torch.inference_mode()
    def clear(self, blocks: list[int]) -> None:
        """Zero the blocks: attention weighs what is left behind a sequence's last token by zero, which keeps NaN."""
        self._cache.clear(blocks)

    def idle(self) -> None:
        """Nothing is prepared ahead of time here."""

    def _slots(self, block_table: list[int], start: int, end: int) -> list[int]:
        size = self._cache.block_size
        return [block_table[position // size] * size + position % size for position in range(start, end)]


def _spans(chunk: Chunk) -> list[Chunk]:
    """The chunk without its draft, and one chunk for each token of the draft."""
    if not chunk.draft:
        return [chunk]
    return [Chunk(chunk.sequence, chunk.start + offset, 1) for offset in range(1 + len(chunk.draft))]
