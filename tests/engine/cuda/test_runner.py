"""The host side of the CUDA path, on the CPU: what it says equals what the plain runner says."""

from __future__ import annotations

import importlib.util
import random

import pytest
import torch

from handler.engine.cuda.kernel_set import choose_kernels
from handler.engine.sampling_params import SamplingParams
from handler.engine.step import Chunk
from tests.conftest import LoadTiny
from tests.engine.cuda.running import CountedCapture, generate_ahead, sequences_with_blocks, with_cuda_runner
from tests.engine.running import complete, greedy, run, submit

CPU = torch.device("cpu")


def prompts(*lengths: int, seed: int = 3) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[numbers.randrange(256) for _ in range(length)] for length in lengths]


def mixed_params(max_tokens: int) -> list[SamplingParams]:
    """One of each kind: greedy, drawn in every way, and what only the host's sampler can do."""
    kinds = [
        {"temperature": 0.0},
        {"temperature": 0.9},
        {"temperature": 1.2, "min_p": 0.05},
        {"temperature": 1.0, "top_k": 20},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.0, "top_k": 258, "top_p": 0.9, "min_p": 0.01},
        {"temperature": 1.0, "repetition_penalty": 1.3, "frequency_penalty": 0.5},
        {"temperature": 0.0, "logprobs": 2, "logit_bias": {7: 2.0}},
        {"temperature": 0.7, "min_tokens": 4},
    ]
    return [SamplingParams(max_tokens=max_tokens, ignore_eos=True, seed=5, **kind) for kind in kinds]


@pytest.mark.parametrize("variant", ["llama-biases", "mistral-window", "qwen2-window", "qwen3", "qwen2-yarn"])
def test_it_says_what_the_plain_runner_says(variant: str, load_tiny: LoadTiny) -> None:
    texts = prompts(1, 5, 40, 130, 300, 2, 64)
    expected = complete(load_tiny(variant, max_batch_size=4), texts, greedy(20))
    core = load_tiny(variant, max_batch_size=4)
    capture = CountedCapture()
    runner = with_cuda_runner(core, max_batch_size=4, capture=capture)
    found = complete(core, texts, greedy(20))
    assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]
    assert runner.num_graphs == capture.captures > 0
    assert capture.replays > 0
    assert runner.clock.num_steps > 20
    assert runner.clock.work_s > 0


def test_every_kind_of_sampling_draws_the_same_tokens(load_tiny: LoadTiny) -> None:
    texts, params = prompts(*range(10, 19)), mixed_params(15)

    def tokens(*, on_device: bool) -> list[list[int]]:
        core = load_tiny(max_batch_size=9)
        if on_device:
            with_cuda_runner(core, max_batch_size=9)
        ids = [submit(core, text, own) for text, own in zip(texts, params, strict=True)]
        completions = run(core)
        assert len(completions[ids[7]].logprobs) == 15
        return [completions[number].tokens for number in ids]

    assert tokens(on_device=True) == tokens(on_device=False)


def test_scarce_blocks_change_no_token(load_tiny: LoadTiny) -> None:
    texts = prompts(60, 50, 90, 30)
    expected = complete(load_tiny(max_model_len=256), texts, greedy(60))
    core = load_tiny(max_model_len=256)
    with_cuda_runner(core, max_batch_size=4)
    held = [core._pool.allocate() for _ in range(core._pool.num_available - 9)]
    found = complete(core, texts, greedy(60))
    assert core.stats().num_preemptions > 0
    assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]
    core._pool.release([block for block in held if block is not None])


@pytest.mark.parametrize("seed", range(4))
def test_whatever_comes_together_gets_the_same_tokens(seed: int, load_tiny: LoadTiny) -> None:
    numbers = random.Random(seed)
    texts = [text * 3 for text in prompts(*(numbers.randrange(1, 60) for _ in range(12)), seed=seed)]
    params = [numbers.choice(mixed_params(numbers.randrange(2, 40))) for _ in texts]

    def tokens(*, on_device: bool) -> list[list[int]]:
        core = load_tiny(max_batch_size=4, max_model_len=512)
        if on_device:
            with_cuda_runner(core, max_batch_size=4)
            for _ in range(core._pool.num_available - 20):
                core._pool.allocate()
        ids = [submit(core, text, own) for text, own in zip(texts, params, strict=True)]
        completions = run(core)
        return [completions[number].tokens for number in ids]

    assert tokens(on_device=True) == tokens(on_device=False)


def test_running_ahead_says_what_waiting_says(load_tiny: LoadTiny) -> None:
    texts = prompts(33, 1, 64, 7, 12)
    params = [own for own in mixed_params(30) if not own.needs_history][:5]
    core = load_tiny(max_model_len=256, max_batch_size=5)
    ids = [submit(core, text, own) for text, own in zip(texts, params, strict=True)]
    completions = run(core)
    runner = with_cuda_runner(core, max_batch_size=5)
    ahead = generate_ahead(runner, sequences_with_blocks(texts, params, room=31), 30)
    assert ahead == [completions[number].tokens for number in ids]


def test_a_batch_changes_no_token_of_a_sequence(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256, max_batch_size=5)
    runner = with_cuda_runner(core, max_batch_size=5)
    texts = prompts(20, 70, 3, 41, 9)
    together = generate_ahead(runner, sequences_with_blocks(texts, [greedy(25)] * 5, room=25), 25)
    for text, tokens in zip(texts, together, strict=True):
        assert generate_ahead(runner, sequences_with_blocks([text], [greedy(25)], room=25), 25) == [tokens]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_drafts_are_accepted_as_far_as_they_are_right(temperature: float, load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256)
    runner = with_cuda_runner(core, max_batch_size=4)
    params = SamplingParams(max_tokens=12, temperature=temperature, seed=2)
    [text] = prompts(40)
    [expected] = generate_ahead(runner, sequences_with_blocks([text], [params], room=20), 12)
    [sequence] = sequences_with_blocks([text], [params], room=20)
    [(_, [first])] = runner.launch([Chunk(sequence, 0, 40)]).wait()
    sequence.tokens.append(first.token_id)
    wrong = (expected[3] + 1) % 256
    for draft, accepted in [
        ((expected[1], expected[2], wrong), 3),  # positions 1 and 2 guessed, then one that differs
        ((), 1),
        (tuple(expected[5:8]), 4),
        ((wrong,) if expected[9] != wrong else (wrong + 1,), 1),
    ]:
        chunk = Chunk(sequence, len(sequence) - 1, 1, draft)
        [(_, tokens)] = runner.launch([chunk]).wait()
        assert len(tokens) == accepted
        sequence.tokens += [token.token_id for token in tokens]
    assert sequence.tokens[40:] == expected[: len(sequence) - 40]
    assert len(sequence) == 40 + 10


def test_a_step_that_only_computes_yields_nothing(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=512)
    runner = with_cuda_runner(core, max_batch_size=4)
    [sequence] = sequences_with_blocks(prompts(200), [greedy(1)], room=1)
    assert runner.launch([Chunk(sequence, 0, 128)]).wait() == []
    assert runner.launch([Chunk(sequence, 128, 1)]).wait() == []
    assert len(runner.launch([Chunk(sequence, 129, 71)]).wait()) == 1


def test_idle_moments_make_graphs(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_batch_size=4)
    runner = with_cuda_runner(core, max_batch_size=4)
    complete(core, prompts(5), greedy(2))
    assert runner.num_graphs == 0
    core.idle()
    assert runner.num_graphs == 1


@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or torch.cuda.is_available(),
    reason="Triton comes with torch's CUDA builds, and interprets where there is no GPU",
)
def test_fused_kernels_say_the_same(load_tiny: LoadTiny) -> None:
    texts = prompts(1, 40, 9)
    expected = complete(load_tiny("qwen3", max_model_len=128), texts, greedy(6))
    core = load_tiny("qwen3", max_model_len=128)
    kernels = choose_kernels(core._runner._decoder.config, CPU, torch.float32)
    assert kernels.name == "triton, torch"
    with_cuda_runner(core, max_batch_size=4, kernels=kernels)
    found = complete(core, texts, greedy(6))
    assert [completion.tokens for completion in found] == [completion.tokens for completion in expected]
