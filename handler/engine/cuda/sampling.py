"""Chooses tokens on the device, by the rule of `handler.engine.sampler.Sampler`, with no word from the host.

What a row does not ask for costs nothing: the host knows the parameters and says how much of the rule a step needs.
A row's choice is the same under every mode that covers it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import torch
from torch import Tensor

from handler.engine.cuda.inputs import DeviceInputs
from handler.engine.sampler import CANDIDATES
from handler.engine.sampling_params import SamplingParams


class Mode(enum.IntEnum):
    """How much of the rule a step needs; each covers the ones before it."""

    GREEDY = 0
    """Every row takes the likeliest token."""
    PLAIN = 1
    """Rows may draw from all tokens, at a temperature and above a min_p."""
    FEW = 2
    """Rows may draw from at most `CANDIDATES` likeliest tokens, named by their top_k, of these by top_p."""
    SORTED = 3
    """Rows may have any top_k and top_p."""


Argmax = Callable[[Tensor], Tensor]


def mode_of(params: SamplingParams) -> Mode:
    """What one row with these parameters needs."""
    if params.temperature == 0:
        return Mode.GREEDY
    if 0 < params.top_k <= CANDIDATES:
        return Mode.FEW
    return Mode.SORTED if params.top_k or params.top_p < 1.0 else Mode.PLAIN


NO_CHOICE = -1
"""In place of a token, where a row's largest logit is not finite."""


def choose(logits: Tensor, inputs: DeviceInputs, mode: Mode, argmax: Argmax) -> Tensor:
    """A token of each row of `logits` (C, vocab_size) float32, or NO_CHOICE, as (C,) int64."""
    likeliest = argmax(logits)
    is_finite = logits.gather(1, likeliest[:, None]).squeeze(1).isfinite()
    return torch.where(is_finite, _choose(logits, likeliest, inputs, mode), NO_CHOICE)


def _choose(logits: Tensor, likeliest: Tensor, inputs: DeviceInputs, mode: Mode) -> Tensor:
    if mode is Mode.GREEDY:
        return likeliest
    probabilities = _probabilities(logits, likeliest, inputs)
    sampled = _invert(probabilities, inputs.uniforms)
    if mode is not Mode.PLAIN:
        width = logits.shape[1] if mode is Mode.SORTED else min(CANDIDATES, logits.shape[1])
        is_cut = (inputs.top_k > 0) | (inputs.top_p < 1.0)
        sampled = torch.where(is_cut, _sample_cut(probabilities, inputs, width), sampled)
    return torch.where(inputs.temperatures > 0, sampled, likeliest)


def _probabilities(logits: Tensor, likeliest: Tensor, inputs: DeviceInputs) -> Tensor:
    """Weights (C, vocab_size): probabilities at each row's temperature, zero below its min_p."""
    highest = logits.gather(1, likeliest[:, None])
    # Rows that are greedy get one too, and are overruled later. Below the smallest float32 nothing changes any more.
    temperatures = inputs.temperatures.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    probabilities = ((logits - highest) / temperatures).softmax(dim=-1)
    kept = probabilities >= inputs.min_p[:, None] * probabilities.gather(1, likeliest[:, None])
    return torch.where(kept, probabilities, 0.0)


def _sample_cut(probabilities: Tensor, inputs: DeviceInputs, width: int) -> Tensor:
    """A token of each row after top_k and top_p, from its `width` likeliest; of equal ones the first comes first."""
    probabilities = torch.where(
        inputs.min_p[:, None] > 0, probabilities / probabilities.sum(dim=-1, keepdim=True), probabilities
    )
    if width == probabilities.shape[1]:
        likely, indices = probabilities.sort(descending=True, stable=True)
    else:
        candidates = probabilities.topk(width).indices.sort().values
        likely, order = probabilities.gather(1, candidates).sort(descending=True, stable=True)
        indices = candidates.gather(1, order)
    top_k = inputs.top_k[:, None]
    ranks = torch.arange(width, device=likely.device)
    likely = torch.where((top_k == 0) | (ranks < top_k), likely, 0.0)
    likely = torch.where(top_k > 0, likely / likely.sum(dim=-1, keepdim=True), likely)
    before = likely.cumsum(dim=-1) - likely
    top_p = inputs.top_p[:, None]
    likely = torch.where((top_p >= 1.0) | (before < top_p), likely, 0.0)
    return indices.gather(1, _invert(likely, inputs.uniforms)[:, None]).squeeze(1)


def _invert(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Indices (C,) where each row's cumulative `weights` (C, W) pass its uniform number."""
    cumulative = weights.double().cumsum(dim=-1)
    # (0, total]: a weight of zero is never chosen, not even the first.
    thresholds = (1.0 - uniforms)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds).squeeze(1).clamp_(max=weights.shape[-1] - 1)
