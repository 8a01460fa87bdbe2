"""Models that transformers' classes compute say token for token what transformers says, however the work was cut."""

from __future__ import annotations

import random

import pytest

from tests.conftest import LoadTiny
from tests.engine.running import complete, complete_alone, generate, greedy, submit
from tests.tiny_models import FOREIGN_VARIANTS, make_model

LENGTHS = (1, 5, 17, 64, 130, 300)
NUM_TOKENS = 32
UNLIKE = ["gemma2", "phi", "gpt-neox", "qwen2-moe", "deepseek-v3"]
"""Windows and soft caps, partial rotary embeddings, experts, values smaller than keys."""


def prompts_of(lengths: tuple[int, ...], seed: int) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[numbers.randrange(256) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("variant", FOREIGN_VARIANTS)
def test_a_tiny_model_says_what_transformers_says(variant: str, load_tiny: LoadTiny) -> None:
    model = make_model(variant)
    context_tokens = 256 if variant == "phi3-long-rope" else 352
    prompts = [prompt for prompt in prompts_of(LENGTHS, seed=7) if len(prompt) + NUM_TOKENS <= context_tokens]
    expected = [generate(model, prompt, NUM_TOKENS) for prompt in prompts]
    for chunk_tokens in (128, 1024):
        core = load_tiny(variant, prefill_chunk_tokens=chunk_tokens, max_model_len=context_tokens)
        assert core.model.info.architecture == FOREIGN_VARIANTS[variant][1]
        assert [completion.tokens for completion in complete(core, prompts, greedy(NUM_TOKENS))] == expected


@pytest.mark.parametrize("variant", UNLIKE)
def test_a_prefix_hit_changes_no_token(variant: str, load_tiny: LoadTiny) -> None:
    model = make_model(variant)
    shared, first, second = prompts_of((256, 70, 30), seed=9)
    core = load_tiny(variant, prefill_chunk_tokens=128, max_model_len=512)
    for prompt, cached_tokens in [(shared + first, 0), (shared + second, 256), (shared, 128)]:
        [completion] = complete_alone(core, [prompt], greedy(NUM_TOKENS))
        assert completion.tokens == generate(model, prompt, NUM_TOKENS)
        assert completion.cached_tokens == cached_tokens


@pytest.mark.parametrize("variant", UNLIKE)
def test_preemption_changes_no_token(variant: str, load_tiny: LoadTiny) -> None:
    model = make_model(variant)
    prompts = prompts_of((61, 125, 30, 92), seed=8)
    expected = [generate(model, prompt, 40) for prompt in prompts]
    core = load_tiny(variant, max_model_len=352)
    while core._pool.num_available > 12:  # all need 15 blocks in the end
        core._pool.allocate()
    completions = complete(core, prompts, greedy(40))
    assert core.stats().num_preemptions > 0
    assert [completion.tokens for completion in completions] == expected


def test_two_models_side_by_side_do_not_meet(load_tiny: LoadTiny) -> None:
    """As with an engine on each of two devices: what transformers knows of us is shared by both."""
    [prompt] = prompts_of((70,), seed=5)
    variants = ("gemma2", "phi")
    cores = [load_tiny(variant) for variant in variants]
    for core in cores:
        submit(core, prompt, greedy(NUM_TOKENS))
    tokens: list[list[int]] = [[], []]
    while cores[0].has_work or cores[1].has_work:
        for core, said in zip(cores, tokens, strict=True):
            said += [token for _, event in core.step() for token in event.token_ids]
    assert tokens == [generate(make_model(variant), prompt, NUM_TOKENS) for variant in variants]


def test_fewer_bits_say_nearly_the_same(load_tiny: LoadTiny) -> None:
    prompts = prompts_of((30, 60), seed=3)
    params = greedy(1, logprobs=20)
    exact, rounded = load_tiny("gemma2"), load_tiny("gemma2", dtype="bfloat16")
    assert rounded.model.info.dtype == "bfloat16"
    for ours, theirs in zip(complete(rounded, prompts, params), complete(exact, prompts, params), strict=True):
        wanted, found = dict(theirs.logprobs[0].top), dict(ours.logprobs[0].top)
        both = wanted.keys() & found.keys()
        differences = [abs(found[token] - wanted[token]) for token in both]
        assert len(both) >= 15
        assert 0 < sum(differences) / len(differences) < 0.1
