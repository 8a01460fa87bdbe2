"""A seeded sequence has the same tokens whatever shares its steps, and however its prompt was cut."""

from __future__ import annotations

import random
from typing import Any

import pytest

from handler.boot import BootTimeline
from handler.engine.core import EngineCore
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from tests.conftest import LoadTiny
from tests.engine.running import Completion, complete, run, submit

STYLES: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 40, "min_p": 0.01},
    {"temperature": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.3, "repetition_penalty": 1.1},
]


def seeded(seed: int, max_tokens: int = 24, **changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, seed=seed, ignore_eos=True, logprobs=0, **changes)


def complete_in_company(core: EngineCore, prompt: list[int], params: SamplingParams, seed: int) -> Completion:
    """The completion while others, of all kinds, join and leave the batch and are cancelled."""
    numbers = random.Random(seed)
    vocab_size = core.model.info.vocab_size

    def add_another() -> int:
        return submit(
            core,
            [numbers.randrange(vocab_size) for _ in range(numbers.choice([1, 9, 60, 128, 190, 200]))],
            SamplingParams(max_tokens=numbers.randint(1, 12), **numbers.choice(STYLES)),
        )

    others = [add_another() for _ in range(3)]
    wanted = submit(core, prompt, params)
    completion = Completion()
    while completion.events == [] or completion.finish_reason is None:
        if numbers.random() < 0.4:
            others.append(add_another())
        if numbers.random() < 0.2:
            core.cancel(numbers.choice(others))
        completion.events += [event for sequence_id, event in core.step() if sequence_id == wanted]
    run(core)
    return completion


@pytest.mark.parametrize("quantization", ["none", "int8"])
@pytest.mark.parametrize("style", range(len(STYLES)))
def test_company_and_chunks_change_no_token(quantization: str, style: int, load_tiny: LoadTiny) -> None:
    params = seeded(1234, **STYLES[style])
    prompt = [random.Random(5).randrange(256) for _ in range(200)]
    options = {"quantization": quantization, "max_model_len": 384, "max_batch_size": 8}
    [alone] = complete(load_tiny("qwen3", **options), [prompt], params)
    assert len(set(alone.tokens)) > 5
    for seed, chunk_tokens in [(1, 128), (2, 256), (3, 1024)]:
        core = load_tiny("qwen3", prefill_chunk_tokens=chunk_tokens, **options)
        company = complete_in_company(core, prompt, params, seed)
        assert company.tokens == alone.tokens
        assert company.logprobs == alone.logprobs, "a bit of a logit moved"


def test_the_seed_decides(load_tiny: LoadTiny) -> None:
    core = load_tiny()

    def tokens(seed: int) -> list[int]:
        return complete(core, [[1, 2, 3]], seeded(seed, max_tokens=12))[0].tokens

    seeds = [0, 1, -1, 2**63 - 1, -(2**63), 77]
    drawn = [tokens(seed) for seed in seeds]
    assert drawn == [tokens(seed) for seed in seeds]
    assert len(set(map(tuple, drawn))) == len(seeds)


def test_without_a_seed_no_two_are_alike(load_tiny: LoadTiny) -> None:
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    completions = complete(load_tiny(), [[1, 2, 3]] * 4, params)
    assert len({tuple(completion.tokens) for completion in completions}) == 4


def test_preemption_changes_no_token(load_tiny: LoadTiny) -> None:
    params = seeded(9, max_tokens=60)
    prompts = [[random.Random(seed).randrange(256) for _ in range(50)] for seed in range(4)]
    core = load_tiny("llama", max_model_len=256)
    expected = [complete(core, [prompt], params)[0].tokens for prompt in prompts]
    while core._pool.num_available > 10:
        core._pool.allocate()
    tokens = [completion.tokens for completion in complete(core, prompts, params)]
    assert core.stats().num_preemptions > 0
    assert tokens == expected


def test_the_embedded_model_in_company(embedded_snapshot: Snapshot, embedded_core: EngineCore) -> None:
    params = seeded(42, max_tokens=10, temperature=0.8, top_p=0.95)
    prompt = embedded_core.model.tokenizer.encode("Once upon a time, " * 30, add_special_tokens=False)
    assert len(prompt) > 128
    [alone] = complete(embedded_core, [prompt], params)
    assert complete_in_company(embedded_core, prompt, params, seed=1).tokens == alone.tokens
    in_pieces, whole = (
        load_core(embedded_snapshot, EngineOptions(device="cpu", prefill_chunk_tokens=tokens), BootTimeline())
        for tokens in (128, 1024)
    )
    company = complete_in_company(in_pieces, prompt, params, seed=2)
    [alone] = complete(whole, [prompt], params)
    assert company.tokens == alone.tokens
