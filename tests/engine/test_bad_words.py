"""Words that a completion must not have."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handler.engine.sampler import Sampler
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from tests.conftest import LoadTiny
from tests.engine.cuda.running import with_cuda_runner
from tests.engine.running import complete, greedy

VOCAB_SIZE = 6
CPU = torch.device("cpu")

words = st.lists(st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5)


def banned(prompt: list[int], output: list[int], params: SamplingParams, accepted: list[int] | None = None) -> set[int]:
    """Tokens that cannot be chosen next, by asking for each one of them with a large bias."""
    found = set()
    for token in range(VOCAB_SIZE):
        sequence = Sequence(1, prompt, params)
        sequence.tokens += output
        logits = torch.zeros(1, VOCAB_SIZE)
        logits[0, token] = 1000.0
        [sampled] = Sampler(VOCAB_SIZE, (), CPU).sample(logits, [sequence], [accepted or []])
        if sampled.token_id != token:
            found.add(token)
    return found


@given(bad_words=words, output=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=6), num_accepted=st.integers(0, 3))
def test_a_token_is_banned_where_it_would_complete_a_word(
    bad_words: list[tuple[int, ...]], output: list[int], num_accepted: int
) -> None:
    params = SamplingParams(max_tokens=9, temperature=0.0, bad_words=tuple(bad_words))
    expected = {
        token for token in range(VOCAB_SIZE) if any(tuple([*output, token][-len(word) :]) == word for word in bad_words)
    }
    if len(expected) == VOCAB_SIZE:
        return  # then there is nothing to choose from
    kept, accepted = output[: len(output) - num_accepted], output[max(0, len(output) - num_accepted) :]
    assert banned([3, 4, 5], kept, params, accepted) == expected


def test_the_prompt_is_no_part_of_a_word() -> None:
    params = SamplingParams(max_tokens=9, temperature=0.0, bad_words=((1, 2),))
    assert banned([1], [], params) == set()
    assert banned([1], [1], params) == {2}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_with_every_token_banned_the_others_of_the_batch_go_on(temperature: float) -> None:
    bans = tuple((token,) for token in range(6))
    hopeless = SamplingParams(max_tokens=9, temperature=temperature, seed=1, bad_words=bans)
    usual = SamplingParams(max_tokens=9, temperature=temperature, seed=1)
    logits = torch.tensor([[0.0] * VOCAB_SIZE, [0, 0, 0, 99.0, 0, 0]])
    sampled = Sampler(VOCAB_SIZE, (), CPU).sample(logits, [Sequence(1, [1], hopeless), Sequence(2, [1], usual)])
    assert sampled[1].token_id == 3


@pytest.mark.parametrize("device", ["plain", "cuda"])
def test_a_completion_goes_round_its_bad_words_alone(device: str, load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256, max_batch_size=4, speculation_tokens=0 if device == "cuda" else 4)
    if device == "cuda":
        with_cuda_runner(core, max_batch_size=4)
    numbers = random.Random(2)
    prompt = [numbers.randrange(256) for _ in range(20)]
    [free] = complete(core, [prompt], greedy(12))
    pair, single = tuple(free.tokens[3:5]), (free.tokens[8],)
    [bound] = complete(core, [prompt], greedy(12, bad_words=(pair, single)))
    assert bound.tokens[:4] == free.tokens[:4] or single[0] in free.tokens[:4]
    assert single[0] not in bound.tokens
    assert pair not in list(zip(bound.tokens, bound.tokens[1:], strict=False))
    beside = complete(core, [prompt, prompt[1:]], greedy(12))[0]
    assert beside.tokens == free.tokens
