"""Log probabilities as they are reported: the model's own, before temperature and penalties. Engine thread only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import torch
from torch import Tensor

from handler.engine.events import TokenLogprob
from handler.engine.step import Chunk

_SLICE_ROWS = 32
"""Logits of a whole prompt can be gigabytes; those of so many rows and their log probabilities are held at a time."""


class Scores(msgspec.Struct, frozen=True):
    """Log probabilities of R given tokens, and of the K likeliest in the place of each, all on one device.

    tokens, logprobs: (R,); top_tokens, top_logprobs: (R, K), likeliest first.
    """

    tokens: Tensor
    logprobs: Tensor
    top_tokens: Tensor
    top_logprobs: Tensor

    def report(self) -> list[TokenLogprob]:
        """Row by row, on the host."""
        tops = zip(self.top_tokens.tolist(), self.top_logprobs.tolist(), strict=True)
        return [
            TokenLogprob(token, logprob, tuple(zip(*top, strict=True)))
            for token, logprob, top in zip(self.tokens.tolist(), self.logprobs.tolist(), tops, strict=True)
        ]


def score(logits: Tensor, tokens: Tensor, num_top: int) -> Scores:
    """`tokens` (R,) int64 under `logits` (R, vocab_size) float32, with `num_top` alternatives or all that there are."""
    logprobs = logits.log_softmax(dim=-1)
    top = logprobs.topk(min(num_top, logprobs.shape[-1]))
    return Scores(tokens, logprobs.gather(1, tokens[:, None]).squeeze(1), top.indices, top.values)


def score_hidden(hidden: Tensor, head: Callable[[Tensor], Tensor], tokens: Tensor, num_top: int) -> Scores:
    """`tokens` (R,) under the logits that `head` makes of `hidden` (R, hidden_size), a few rows at a time."""
    slices = zip(torch.split(hidden, _SLICE_ROWS), torch.split(tokens, _SLICE_ROWS), strict=True)
    parts = [score(head(rows), wanted, num_top) for rows, wanted in slices]
    return Scores(*(torch.cat([getattr(part, field) for part in parts]) for field in Scores.__struct_fields__))


def scored_chunks(batch: list[Chunk]) -> Iterator[tuple[Chunk, range, list[int], int]]:
    """Chunks with rows to score: offsets of the rows in the chunk, the tokens behind them, how many alternatives."""
    for chunk in batch:
        num_top = chunk.sequence.params.prompt_logprobs
        if num_top is None:
            continue
        rows = chunk.scored_rows
        if rows:
            offsets = range(rows.start - chunk.start, rows.stop - chunk.start)
            yield chunk, offsets, chunk.sequence.tokens[rows.start + 1 : rows.stop + 1], num_top
