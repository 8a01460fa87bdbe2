"""On the device the same tokens are chosen as by the sampler that the CPU uses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from handler.engine.cuda.inputs import DeviceInputs, HostInputs
from handler.engine.cuda.kernel_set import torch_argmax
from handler.engine.cuda.sampling import NO_CHOICE, Mode, choose, mode_of
from handler.engine.sampler import Sampler
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence

CPU = torch.device("cpu")


def params(**changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=1, **changes)


def choices(logits: Tensor, rows: list[SamplingParams], mode: Mode, *, seed: int = 0) -> list[int]:
    inputs = HostInputs()
    for row, own in enumerate(rows):
        uniform = Sequence(row, [0], SamplingParams(max_tokens=1, seed=seed + row)).rng.random()
        inputs.add_choice(row, 0, uniform, own.temperature, own.top_k, own.top_p, own.min_p)
    words = torch.frombuffer(inputs.words(), dtype=torch.int32)
    tokens: list[int] = choose(logits, DeviceInputs.read(words, inputs.layout), mode, torch_argmax).tolist()
    return tokens


def expected(logits: Tensor, rows: list[SamplingParams], *, seed: int = 0) -> list[int]:
    """What the sampler says; a sequence's seed is its row's."""
    sequences = [Sequence(row, [0], own) for row, own in enumerate(rows)]
    for row, sequence in enumerate(sequences):
        sequence.rng.seed(seed + row)
    return [token.token_id for token in Sampler(logits.shape[1], (), CPU).sample(logits.clone(), sequences)]


sampling = st.builds(
    params,
    temperature=st.sampled_from([0.0, 1e-40, 0.3, 1.0, 2.5]),
    top_k=st.sampled_from([0, 1, 3, 50, 256, 300, 5000]),
    top_p=st.sampled_from([1.0, 0.01, 0.5, 0.95]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)


@settings(max_examples=150)
@given(
    rows=st.lists(sampling, min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
    vocab=st.sampled_from([3, 200, 1000]),
    spread=st.sampled_from([0.1, 3.0, 20.0]),
)
def test_the_device_chooses_as_the_sampler_does(
    rows: list[SamplingParams], seed: int, vocab: int, spread: float
) -> None:
    logits = torch.randn(len(rows), vocab, generator=torch.Generator().manual_seed(seed)) * spread
    mode = max(mode_of(row) for row in rows)
    together = choices(logits, rows, mode, seed=seed)
    assert together == expected(logits, rows, seed=seed)
    assert choices(logits, rows, Mode.SORTED, seed=seed) == together
    for row, own in enumerate(rows):
        alone = choices(logits[row : row + 1], [own], mode_of(own), seed=seed + row)
        assert alone == [together[row]], "a row's choice depends on its batch"


def test_of_equal_tokens_the_first_comes_first_however_they_are_found() -> None:
    logits = torch.randint(0, 8, (1, 600), generator=torch.Generator().manual_seed(0)).float()
    few, whole = (
        [choices(logits, [params(top_k=100)], mode, seed=seed)[0] for seed in range(40)]
        for mode in (Mode.FEW, Mode.SORTED)
    )
    assert few == whole
    second_level = (logits[0] == 6).nonzero().flatten()
    allowed = {*(logits[0] == 7).nonzero().flatten().tolist(), *second_level[: 100 - int((logits == 7).sum())].tolist()}
    assert set(few) <= allowed


@pytest.mark.parametrize(
    ("changes", "mode"),
    [
        ({"temperature": 0.0, "top_p": 0.5}, Mode.GREEDY),
        ({}, Mode.PLAIN),
        ({"min_p": 0.1}, Mode.PLAIN),
        ({"top_k": 256, "top_p": 0.9}, Mode.FEW),
        ({"top_k": 257}, Mode.SORTED),
        ({"top_p": 0.9}, Mode.SORTED),
    ],
)
def test_a_step_does_no_more_than_its_rows_need(changes: dict[str, Any], mode: Mode) -> None:
    assert mode_of(params(**changes)) is mode


@pytest.mark.parametrize("mode", list(Mode))
def test_a_row_of_no_numbers_has_no_choice_and_its_neighbours_have(mode: Mode) -> None:
    logits = torch.randn(4, 300)
    rows = [params(temperature=0.0 if mode is Mode.GREEDY else 0.7)] * 4
    whole = choices(logits, rows, mode)
    logits[1] = float("nan")
    logits[2] = float("-inf")
    assert choices(logits, rows, mode) == [whole[0], NO_CHOICE, NO_CHOICE, whole[3]]
