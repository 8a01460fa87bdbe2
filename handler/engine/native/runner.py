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
        """Compute all chunks of `batch`; one token for each chunk that reaches the end of its sequence."""
        tokens: list[int] = []
        spans: list[Span] = []
        logit_rows: list[int] = []
        for chunk in batch:
            tokens += chunk.sequence.tokens[chunk.start : chunk.start + chunk.length]
            spans.append((chunk.length, chunk.start, chunk.sequence.block_table))
            if chunk.samples:
                logit_rows.append(len(tokens) - 1)
        logits = self._decoder.forward(tokens, spans, logit_rows)
        sampling = [chunk.sequence for chunk in batch if chunk.samples]
        if not sampling:
            return FinishedStep([])
        sampled = zip(sampling, self._sampler.sample(logits, sampling), strict=True)
        return FinishedStep([(sequence, [token]) for sequence, token in sampled])
