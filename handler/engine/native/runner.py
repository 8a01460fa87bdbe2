"""Runs steps through the compiled kernels: turns a batch of chunks into rows and spans, samples from the logits.

Owned by the engine thread.
"""

from __future__ import annotations

import torch

from handler.engine.native.decoder import NativeDecoder, Span
from handler.engine.runner import FinishedStep
from handler.engine.sampler import Sampler
from handler.engine.types import Batch


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
        for chunk in batch:
            tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.length]
            tokens += chunk.draft
            num_drafted = len(chunk.draft)
            spans.append((chunk.length + num_drafted, chunk.start, chunk.sequence.block_table))
            if chunk.samples:
                logit_rows += range(len(tokens) - 1 - num_drafted, len(tokens))
        sampling = [chunk for chunk in batch if chunk.samples]
        logits = self._decoder.forward(tokens, spans, logit_rows)
        return FinishedStep(self._sampler.sample_chunks(logits, sampling) if sampling else [])

    def clear(self, blocks: list[int]) -> None:
        """Nothing to do: the kernels read nothing behind a sequence's last token."""

    def idle(self) -> None:
        """Nothing is prepared ahead of time here."""
