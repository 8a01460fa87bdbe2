"""Each parameter against a reference of its own: exact probabilities, or transformers' processors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from handler.engine import sampler as sampler_module
from handler.engine.sampler import Sampler, _argmax
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import Chunk, SampledToken

VOCAB = 400
END = 399
DRAWS = 4000


def sequence(number: int = 0, tokens: tuple[int, ...] = (1,), output: tuple[int, ...] = (), **changes: Any) -> Sequence:
    params = SamplingParams(**({"max_tokens": 100, "seed": number} | changes))
    result = Sequence(number, list(tokens), params)
    result.tokens += output
    return result


def sample(logits: Tensor, *sequences: Sequence, end_token_ids: tuple[int, ...] = (END,)) -> list[SampledToken]:
    sampler = Sampler(logits.shape[-1], end_token_ids, torch.device("cpu"))
    return sampler.sample(logits.clone(), list(sequences))


def choose(row: Tensor, **changes: Any) -> int:
    return sample(row.unsqueeze(0), sequence(**changes))[0].token_id


def draw(row: Tensor, **changes: Any) -> list[int]:
    """Tokens that `DRAWS` seeds choose from one row of logits (vocab_size,)."""
    sequences = [sequence(seed, **changes) for seed in range(DRAWS)]
    return [one.token_id for one in sample(row.expand(DRAWS, -1), *sequences)]


def exact(row: Tensor, params: SamplingParams) -> Tensor:
    """The distribution in float64, written down as vLLM defines it: temperature, min_p, top_k, top_p."""
    probabilities = (row.double() / params.temperature).softmax(dim=0)
    probabilities[probabilities < params.min_p * probabilities.max()] = 0
    if params.top_k:
        probabilities[probabilities.argsort(descending=True)[params.top_k :]] = 0
    probabilities /= probabilities.sum()
    order = probabilities.argsort(descending=True)
    mass_before = probabilities[order].cumsum(dim=0) - probabilities[order]
    probabilities[order[mass_before >= params.top_p]] = 0
    return probabilities / probabilities.sum()


def assert_drawn_from(tokens: list[int], probabilities: Tensor) -> None:
    """Pearson's chi-square, cells of few expectations together; fails by chance once in a million seeds."""
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probabilities)).double()
    assert counts[probabilities == 0].sum() == 0, "a token that was cut off"
    expected = probabilities * len(tokens)
    rare = expected < 8
    cells = [*zip(counts[~rare].tolist(), expected[~rare].tolist(), strict=True)]
    if float(expected[rare].sum()) >= 8:
        cells.append((float(counts[rare].sum()), float(expected[rare].sum())))
    statistic = sum((count - wanted) ** 2 / wanted for count, wanted in cells)
    freedom = len(cells) - 1
    assert statistic <= freedom + 5 * math.sqrt(2 * freedom) + 10, (statistic, freedom)


@pytest.fixture
def row() -> Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 2.5


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_p": 0.9},
        {"top_p": 0.3},
        {"top_p": 0.9999, "temperature": 2.0},  # reaches beyond the candidates
        {"top_k": 5},
        {"top_k": 20, "top_p": 0.7},
        {"min_p": 0.1},
        {"min_p": 0.05, "top_p": 0.8, "temperature": 1.5},
        {"min_p": 0.02, "top_k": 12, "top_p": 0.9, "temperature": 0.8},
        {"top_k": VOCAB + 1000, "temperature": 1.2},
    ],
)
def test_tokens_follow_the_exact_distribution(row: Tensor, changes: dict[str, Any]) -> None:
    assert_drawn_from(draw(row, **changes), exact(row, SamplingParams(max_tokens=1, **changes)))


@pytest.mark.parametrize("top_p", [0.5, 0.95])
def test_the_candidates_choose_what_the_whole_row_would(
    row: Tensor, top_p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"top_p": top_p, "temperature": 0.8}
    among_candidates = draw(row, **changes)
    monkeypatch.setattr(sampler_module, "CANDIDATES", 1)
    assert draw(row, **changes) == among_candidates


def test_a_flat_row_is_cut_where_top_p_says() -> None:
    flat = torch.zeros(2000)
    tokens = sample(flat.expand(500, -1), *[sequence(seed, top_p=0.5) for seed in range(500)])
    kept = {token.token_id for token in tokens}
    assert len(kept) > 300  # CANDIDATES alone would leave 256
    assert max(kept) < 1000 + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 0.0},
        {"temperature": 1e-4},
        {"temperature": 1e-30},
        {"temperature": 1e-300},
        {"temperature": 5e-324},
        {"top_p": 1e-9},
        {"top_p": 5e-324},
        {"top_k": 1},
        {"min_p": 1.0},
        {"temperature": 2.0, "top_k": 1, "top_p": 1e-6, "min_p": 1.0},
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_an_extreme_leaves_the_likeliest_token_only(row: Tensor, changes: dict[str, Any], scale: float) -> None:
    scaled = row * scale
    for seed in range(20):
        assert choose(scaled, number=seed, **changes) == int(row.argmax())


def test_greedy_takes_the_first_of_equals_alone_and_in_a_batch() -> None:
    tied = torch.zeros(VOCAB)
    tied[[17, 90, 300]] = 4.0
    rows = torch.randn(7, VOCAB)
    rows[3] = tied
    tokens = sample(rows, *[sequence(number, temperature=0.0) for number in range(7)])
    assert tokens[3].token_id == choose(tied, temperature=0.0) == 17


def test_equals_at_the_cut_are_not_all_kept() -> None:
    tied = torch.full((VOCAB,), -50.0)
    tied[[5, 6, 7]] = 1.0
    assert len(set(draw(tied, top_k=2))) == 2
    assert set(draw(tied, min_p=1.0)) == {5, 6, 7}


def test_a_token_of_no_probability_is_never_drawn() -> None:
    row = torch.full((VOCAB,), float("-inf"))
    row[[10, 20]] = 0.0
    for changes in ({}, {"top_p": 0.99}, {"top_k": 50}, {"min_p": 0.5}):
        assert set(draw(row, **changes)) == {10, 20}


def test_the_repetition_penalty_is_that_of_transformers(row: Tensor) -> None:
    tokens, output = (3, 7, 7, 12), (20, 3, 55)
    processor = transformers.RepetitionPenaltyLogitsProcessor(penalty=1.7)
    expected = processor(torch.tensor([tokens + output]), row.unsqueeze(0).clone())[0]
    adjusted = adjust(row, tokens=tokens, output=output, repetition_penalty=1.7)
    torch.testing.assert_close(adjusted, expected, rtol=0, atol=0)
    assert (expected != row).sum() == 5


def test_presence_and_frequency_count_the_completion_only(row: Tensor) -> None:
    adjusted = adjust(row, tokens=(3, 7), output=(7, 9, 9, 9), presence_penalty=0.5, frequency_penalty=-0.25)
    expected = row.clone()
    expected[7] -= 0.5 - 0.25 * 1
    expected[9] -= 0.5 - 0.25 * 3
    torch.testing.assert_close(adjusted, expected)
    torch.testing.assert_close(adjust(row, tokens=(3, 7), presence_penalty=2.0), row, rtol=0, atol=0)


def test_penalties_come_before_the_bias_and_the_ban_comes_last(row: Tensor) -> None:
    changes = {"repetition_penalty": 2.0, "presence_penalty": 1.0, "logit_bias": {9: 3.0, END: 100.0}, "min_tokens": 5}
    adjusted = adjust(row, output=(9,), **changes)
    value = float(row[9])
    torch.testing.assert_close(float(adjusted[9]), (value / 2 if value > 0 else value * 2) - 1.0 + 3.0)
    assert adjusted[END] == float("-inf")


def adjust(row: Tensor, **changes: Any) -> Tensor:
    """A row after penalties, biases and bans."""
    adjusted = row.clone()
    Sampler(len(row), (END,), torch.device("cpu"))._adjust(adjusted, sequence(**changes), [])
    return adjusted


def test_a_bias_forces_and_bans(row: Tensor) -> None:
    assert set(draw(row, logit_bias={33: 100.0})) == {33}
    likeliest = int(row.argmax())
    assert likeliest not in draw(row, logit_bias={likeliest: -100.0})
    assert choose(row, temperature=0.0, logit_bias={likeliest: -100}) == int(row.topk(2).indices[1])


def test_a_bias_shifts_the_odds(row: Tensor) -> None:
    biased = row.clone()
    biased[4] += 2.5
    biased[8] -= 1.5
    assert_drawn_from(draw(row, logit_bias={4: 2.5, 8: -1.5}), exact(biased, SamplingParams(max_tokens=1)))


@pytest.mark.parametrize("num_output", [0, 2, 3])
def test_no_end_before_min_tokens(num_output: int) -> None:
    row = torch.zeros(VOCAB)
    row[END], row[50], row[60], row[61] = 9.0, 8.0, 7.0, 6.0
    changes = {"temperature": 0.0, "min_tokens": 3, "stop_token_ids": (50, 60), "output": (5,) * num_output}
    assert choose(row, **changes) == (61 if num_output < 3 else END)


def test_the_lists_of_a_request_become_tensors_once(row: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    monkeypatch.setattr(Sampler, "_indices", lambda _, tokens: made.append(len(tokens)) or torch.tensor(tokens))
    sampler = Sampler(VOCAB, (END,), torch.device("cpu"))
    one = sequence(temperature=0.0, logit_bias={7: 90.0, 8: 100.0}, stop_token_ids=(8,) * 5, min_tokens=2)
    for _ in range(4):
        one.tokens.append(sampler.sample(row.repeat(1, 1), [one])[0].token_id)
    assert one.tokens[1:] == [7, 7, 8, 8], "8 would end it, so it comes after min_tokens only"
    assert made == [2, 2]


def test_log_probabilities_are_those_of_the_model_alone(row: Tensor) -> None:
    changes = {"temperature": 0.3, "top_k": 3, "logit_bias": {33: 100.0}, "presence_penalty": 2.0, "output": (33,)}
    [token] = sample(row.unsqueeze(0), sequence(logprobs=5, **changes))
    expected = row.double().log_softmax(dim=0)
    assert token.logprob is not None
    assert token.token_id == token.logprob.token_id == 33
    assert token.logprob.logprob == pytest.approx(float(expected[33]), abs=1e-5)
    likeliest = expected.topk(5)
    assert [token_id for token_id, _ in token.logprob.top] == likeliest.indices.tolist()
    assert [value for _, value in token.logprob.top] == pytest.approx(likeliest.values.tolist(), abs=1e-5)


def test_log_probabilities_come_to_those_who_asked(row: Tensor) -> None:
    tokens = sample(row.expand(3, -1), sequence(0), sequence(1, logprobs=0), sequence(2, logprobs=2))
    first, second, third = (token.logprob for token in tokens)
    assert first is None
    assert second is not None
    assert second.top == ()
    assert third is not None
    assert len(third.top) == 2


def test_more_alternatives_than_tokens_are_all_tokens() -> None:
    [token] = sample(torch.tensor([[1.0, 3.0, 2.0]]), sequence(logprobs=20, temperature=0.0), end_token_ids=())
    assert token.logprob is not None
    assert [token_id for token_id, _ in token.logprob.top] == [1, 2, 0]


MIXED: list[dict[str, Any]] = [
    {},
    {"min_p": 0.05},
    {"temperature": 0.0},
    {"top_p": 0.9, "logprobs": 3},
    {"top_k": 7, "min_p": 0.01},
    {"temperature": 1.7, "logit_bias": {4: 5.0}},
    {"repetition_penalty": 1.3, "output": (4, 5)},
    {"presence_penalty": 1.0, "frequency_penalty": 0.5, "output": (4, 5, 5), "min_tokens": 4},
]


def test_a_row_does_not_see_the_others() -> None:
    rows = torch.randn(64, VOCAB, generator=torch.Generator().manual_seed(11)) * 3

    def one(number: int) -> Sequence:
        return sequence(number, **MIXED[number % len(MIXED)])

    together = sample(rows, *map(one, range(64)))
    alone = [sample(rows[number : number + 1], one(number))[0] for number in range(64)]
    assert together == alone


def test_probabilities_of_a_row_have_the_same_bits_beside_a_min_p() -> None:
    sampler = Sampler(VOCAB, (), torch.device("cpu"))
    rows = torch.randn(32, VOCAB, generator=torch.Generator().manual_seed(12)) * 3
    sequences = [sequence(number, temperature=0.7) for number in range(31)] + [sequence(31, min_p=0.3)]
    beside = sampler._probabilities(rows.clone(), sequences, list(range(32)))
    alone = sampler._probabilities(rows, sequences, list(range(31)))
    assert torch.equal(beside[:31], alone)


def test_one_random_number_a_token() -> None:
    used, untouched = sequence(5), sequence(5, temperature=0.0)
    for _ in range(3):
        sample(torch.zeros(2, VOCAB), used, untouched)
    fresh = sequence(5)
    assert untouched.rng.random() == fresh.rng.random()
    fresh.rng.random()
    fresh.rng.random()
    assert used.rng.random() == fresh.rng.random()


def test_the_vocabulary_may_be_larger_than_any_cut() -> None:
    row = torch.zeros(150_000)
    row[149_999] = 30.0
    assert choose(row, top_p=0.9) == choose(row, min_p=0.5) == choose(row) == 149_999


DRAFTED: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.7},
    {"temperature": 0.8, "top_p": 0.9, "logprobs": 2},
    {"temperature": 0.0, "presence_penalty": 3.0, "frequency_penalty": 1.0, "repetition_penalty": 1.5},
    {"temperature": 0.9, "min_tokens": 3, "frequency_penalty": 2.0},
]


@pytest.mark.parametrize("num_right", range(4))
def test_drafts_are_sampled_like_one_token_after_the_other(num_right: int) -> None:
    rows = torch.randn(len(DRAFTED), 4, VOCAB, generator=torch.Generator().manual_seed(8)) * 2
    rows[:, :, END] += 6.0
    sampler = Sampler(VOCAB, (END,), torch.device("cpu"))
    expected, chunks = [], []
    for number, changes in enumerate(DRAFTED):
        single = sequence(number, (5, 6, 7), **changes)
        tokens = []
        for row in rows[number, : num_right + 1]:
            [token] = sampler.sample(row.clone().unsqueeze(0), [single])
            tokens.append(token)
            single.tokens.append(token.token_id)
        expected.append((tokens, single.rng.random()))
        draft = [token.token_id for token in tokens][:num_right]
        draft += [(tokens[num_right].token_id + 1) % VOCAB, 17, 18][: 3 - num_right]
        chunks.append(Chunk(sequence(number, (5, 6, 7), **changes), 2, 1, tuple(draft)))
    chunks.insert(1, Chunk(sequence(77, temperature=0.0), 0, 1))
    logits = torch.cat((rows[0], rows[1, :1], rows[1:].flatten(0, 1)))
    sampled = sampler.sample_chunks(logits, chunks)
    assert [one for one, _ in sampled] == [chunk.sequence for chunk in chunks]
    lonely = sampled.pop(1)
    assert lonely[1] == [SampledToken(int(rows[1, 0].argmax()))]
    assert [(tokens, one.rng.random()) for one, tokens in sampled] == expected


@pytest.mark.parametrize("columns", [1, 259, 512, 49152, 32016])
def test_the_largest_logit_is_found_wherever_it_is(columns: int) -> None:
    logits = torch.randn(5, columns, generator=torch.Generator().manual_seed(columns)).round(decimals=1)
    assert torch.equal(_argmax(logits), logits.argmax(dim=-1))
    equal = torch.zeros(2, columns)
    assert _argmax(equal).tolist() == [0, 0]
    equal[1, -1] = 1
    assert _argmax(equal).tolist() == [0, columns - 1]


@pytest.mark.parametrize("vocab_size", [259, 320, 49152])
def test_the_piecewise_search_finds_what_adding_up_one_by_one_finds(vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(50, vocab_size, generator=generator) * 4
    logits[torch.rand(50, vocab_size, generator=generator) < 0.9] = float("-inf")
    logits[::2, : vocab_size // 2] = float("-inf")
    logits[1::2, vocab_size // 2 :] = float("-inf")
    params = [SamplingParams(max_tokens=1, seed=seed) for seed in range(50)]
    sampler = Sampler(vocab_size, (), torch.device("cpu"))
    sequences = [Sequence(seed, [1], each) for seed, each in enumerate(params)]
    tokens = [token.token_id for token in sampler.sample(logits.clone(), sequences)]
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    shares = torch.tensor([[1.0 - Sequence(0, [1], each).rng.random()] for each in params], dtype=torch.float64)
    expected = torch.searchsorted(cumulative, shares * cumulative[:, -1:]).squeeze(1)
    assert tokens == expected.tolist()
    assert torch.isfinite(logits[torch.arange(50), torch.tensor(tokens)]).all()


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2.0**-53])
def test_neither_end_of_the_search_is_a_token_without_weight(uniform: float, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.full((2, 1024), float("-inf"))
    logits[0, [300, 700]] = torch.tensor([1.0, 2.0])
    logits[1, 511] = 0.0
    sequences = [Sequence(row, [1], SamplingParams(max_tokens=1)) for row in range(2)]
    for sequence in sequences:
        monkeypatch.setattr(sequence.rng, "random", lambda: uniform)
    tokens = [token.token_id for token in Sampler(1024, (), torch.device("cpu")).sample(logits, sequences)]
    assert tokens == [700 if uniform == 0.0 else 300, 511]
