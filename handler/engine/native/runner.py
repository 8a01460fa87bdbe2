"""Runs steps through the compiled kernels: turns a batch of chunks into rows and spans, samples from the logits.

Owned by the engine thread.
"""

from __future__ import annotations

import torch
from torch import Tensor

from handler.engine.logprobs import score_hidden, scored_chunks
from handler.engine.native.decoder import NativeDecoder, Span
from handler.engine.runner import FinishedStep
from handler.engine.sampler import Sampler
from handler.engine.sequence import Sequence
from handler.engine.step import Batch


class NativeRunner:
    """The int8 decoder in C, and the sampler. A step is computed before `launch` returns."""

    runs_ahead = False

    def __init__(self, decoder: NativeDecoder, sampler: Sampler) -> None:
        self._decoder = decoder
        self._sampler = sampler

    @torch.inference_mode()
    def launch(self, batch: Batch) -> FinishedStep:
        """Compute all chunks of `batch`, each with its draft; every row of a chunk with a draft yields logits."""
        tokens: list[int] = []
        spans: list[Span] = []
        logit_rows: list[int] = []
        first_row_of: dict[Sequence, int] = {}
        for chunk in batch:
            first_row_of[chunk.sequence] = len(tokens)
            tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.length]
            tokens += chunk.draft
            num_drafted = len(chunk.draft)
            spans.append((chunk.length + num_drafted, chunk.start, chunk.sequence.block_table))
            if chunk.samples:
                logit_rows += range(len(tokens) - 1 - num_drafted, len(tokens))
        sampling = [chunk for chunk in batch if chunk.samples]
        num_sampling_rows = len(logit_rows)
        scored = list(scored_chunks(batch))
        for chunk, offsets, _, _ in scored:
            first_row = first_row_of[chunk.sequence]
            logit_rows += range(first_row + offsets.start, first_row + offsets.stop)
        logits = self._decoder.forward(tokens, spans, logit_rows, keeps_memory=not scored)
        prompt_logprobs = []
        first = num_sampling_rows
        for chunk, offsets, wanted, num_top in scored:
            own = logits[first : first + len(offsets)]
            prompt_logprobs.append((chunk.sequence, score_hidden(own, _as_is, torch.tensor(wanted), num_top).report()))
            first += len(offsets)
        sampled = self._sampler.sample_chunks(logits[:num_sampling_rows], sampling) if sampling else []
        return FinishedStep(sampled, prompt_logprobs)

    def clear(self, blocks: list[int]) -> None:
        """Nothing to do: the kernels read nothing behind a sequence's last token."""

    def idle(self) -> None:
        """Nothing is prepared ahead of time here."""


def _as_is(logits: Tensor) -> Tensor:
    return logits
