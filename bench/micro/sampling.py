"""The choice of tokens from logits, on the CPU with one thread, as beside the native kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch

from handler.engine.sampler import Sampler
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence

VOCAB_SIZE = 49152
BATCH = 16
GREEDY = SamplingParams(max_tokens=64, temperature=0.0)
DRAWN = SamplingParams(max_tokens=64, temperature=0.8, seed=1)
CUT = SamplingParams(max_tokens=64, temperature=0.8, top_p=0.95, seed=1)
_DECAY = 2.0
"""Of probabilities with their rank: of a flat row the sampler would sort all tokens, which few rows of a model need."""


def sampler() -> Callable[[], list[int]]:
    """A batch of sequences with temperature and top_p, what most requests ask for."""
    return sampling(BATCH, CUT)


def sampling(batch: int, params: SamplingParams) -> Callable[[], list[int]]:
    """One token for each of `batch` sequences. The logits are copied first: the sampler overwrites them.

    Each call draws the next numbers of the sequences' generators; how much work that is does not depend on them.
    """
    torch.set_num_threads(1)
    sampler = Sampler(VOCAB_SIZE, (2,), torch.device("cpu"))
    sequences = [Sequence(number, [1, 2, 3], params) for number in range(batch)]
    logits = make_logits(batch)
    scratch = torch.empty_like(logits)

    @torch.inference_mode()
    def sample() -> list[int]:
        scratch.copy_(logits)
        return [token.token_id for token in sampler.sample(scratch, sequences)]

    return sample


def make_logits(batch: int) -> torch.Tensor:
    """The same ones each time (batch, VOCAB_SIZE) float32: in each row a few likely tokens, wherever they are."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.stack([torch.randperm(VOCAB_SIZE, generator=generator) for _ in range(batch)])
    return -_DECAY * (ranks + 1.0).log()
