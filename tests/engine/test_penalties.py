"""The counts that are kept against counting everything anew."""

from __future__ import annotations

import gc
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handler.engine.penalties import Penalties
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence

VOCAB = 900
CPU = torch.device("cpu")

tokens = st.lists(st.one_of(st.integers(0, 5), st.integers(0, VOCAB - 1)), max_size=20)
factors = st.one_of(st.just(0.0), st.floats(-2.0, 2.0))


def anew(row: Tensor, sequence: Sequence) -> Tensor:
    """The row after the penalties as OpenAI and CTRL (arXiv:1909.05858) define them, from all tokens at once."""
    params = sequence.params
    row = row.clone()
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(sorted(set(sequence.tokens)))
        values = row[seen]
        row[seen] = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
    output = torch.tensor(sequence.tokens[sequence.num_prompt_tokens :], dtype=torch.int64)
    counts = torch.bincount(output, minlength=VOCAB)
    return row - (params.frequency_penalty * counts + params.presence_penalty * (counts > 0))


@settings(max_examples=100)
@given(
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=600),
    grown=st.lists(tokens, max_size=6),
    presence=factors,
    frequency=factors,
    repetition=st.one_of(st.just(1.0), st.floats(0.1, 2.0)),
)
def test_counts_that_grow_give_the_same_bits_as_counting_anew(
    prompt: list[int], grown: list[list[int]], presence: float, frequency: float, repetition: float
) -> None:
    params = SamplingParams(
        max_tokens=1000, presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition
    )
    penalties = Penalties(CPU)
    sequence, other = Sequence(1, prompt, params), Sequence(2, prompt[:1], params)
    row = torch.randn(VOCAB, generator=torch.Generator().manual_seed(len(prompt))) * 3
    for new in [[], *grown]:
        for num_accepted in range(len(new)):  # tokens of a draft, before they join the sequence
            adjusted = row.clone()
            penalties.apply(adjusted, sequence, new[:num_accepted])
            ahead = Sequence(3, prompt, params)
            ahead.tokens = sequence.tokens + new[:num_accepted]
            assert torch.equal(adjusted, anew(row, ahead))
        sequence.tokens += new
        other.tokens += new[:1]
        for one in (sequence, other):
            adjusted = row.clone()
            penalties.apply(adjusted, one, [])
            assert torch.equal(adjusted, anew(row, one))


def test_what_was_counted_goes_with_its_sequence() -> None:
    params: dict[str, Any] = {"presence_penalty": 1.0, "repetition_penalty": 1.1}
    penalties = Penalties(CPU)
    kept, ended = (Sequence(number, [1, 2], SamplingParams(max_tokens=5, **params)) for number in range(2))
    for one in (kept, ended):
        penalties.apply(torch.zeros(VOCAB), one, [])
    assert (len(penalties._all), len(penalties._output)) == (2, 2)
    del one, ended
    gc.collect()
    assert (list(penalties._all), list(penalties._output)) == ([kept], [kept])
