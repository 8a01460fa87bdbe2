"""Speculation changes no token: drafts are guesses about the very tokens that come without them."""

from __future__ import annotations

from typing import Any

import pytest

from handler.engine.core import EngineCore
from handler.engine.events import FinishReason
from handler.engine.native.decoder import NativeDecoder
from handler.engine.sampling_params import SamplingParams
from tests.conftest import LoadTiny
from tests.engine.checkpoints import checkpoint
from tests.engine.deferred import defer
from tests.engine.running import complete, greedy, submit
from tests.engine.test_run_ahead import MIXTURE, complete_at_random, jobs, outcome

STYLES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.4},
    {"temperature": 0.6, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 0.5, "top_k": 8},
    {"temperature": 0.0, "repetition_penalty": 1.05, "frequency_penalty": 0.05, "presence_penalty": 0.1},
    {"temperature": 0.0, "min_tokens": 20, "stop_token_ids": tuple(range(0, 250, 7))},
]
TWO_TOKENS: list[dict[str, Any]] = [{"temperature": heat, "logit_bias": {65: 40.0, 66: 40.0}} for heat in (0.0, 0.7)]
REPEATING = [[number, number + 1, number + 2, 7, 9] * 9 for number in range(3)]


def spec_tokens(core: EngineCore) -> tuple[int, int]:
    stats = core.stats()
    return stats.spec_drafted_tokens, stats.spec_accepted_tokens


@pytest.mark.parametrize("style", range(len(STYLES)))
@pytest.mark.parametrize("options", [{}, {"quantization": "int8"}, {"dtype": "bfloat16"}])
def test_tokens_and_their_bits_are_those_without_drafts(
    options: dict[str, Any], style: int, load_tiny: LoadTiny
) -> None:
    params = SamplingParams(**({"max_tokens": 60, "seed": 3, "logprobs": 2, "ignore_eos": True} | STYLES[style]))
    plain = complete(load_tiny("qwen3", max_model_len=256, **options), REPEATING, params)
    core = load_tiny("qwen3", max_model_len=256, speculation_tokens=7, **options)
    drafted = complete(core, REPEATING, params)
    for one, other in zip(drafted, plain, strict=True):
        assert outcome(one) == outcome(other)
        assert one.logprobs == other.logprobs, "a bit of a logit moved"
    assert spec_tokens(core)[0] > 0


def test_a_text_that_repeats_itself_takes_fewer_steps(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256, speculation_tokens=6)
    params = greedy(100, logit_bias={65: 100.0})
    sequence = submit(core, [1, 2, 3], params)
    num_steps = 0
    events = []
    while core.has_work:
        events += core.step()
        num_steps += 1
    tokens = [token for _, event in events for token in event.token_ids]
    assert tokens == [65] * 100
    assert num_steps < 25
    assert {number for number, _ in events} == {sequence}
    drafted, accepted = spec_tokens(core)
    assert drafted == accepted == 100 - num_steps
    assert core.stats().kv_blocks_used == 0


def test_without_the_option_nothing_is_drafted(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256)
    complete(core, REPEATING, greedy(30))
    assert spec_tokens(core) == (0, 0)


@pytest.mark.skipif(not NativeDecoder.fits(checkpoint("llama")[0]), reason="no int8 kernels here")
def test_the_kernels_draft_unless_told_otherwise(load_tiny: LoadTiny) -> None:
    core = load_tiny(dtype="auto", max_model_len=256)
    complete(core, REPEATING, greedy(60))
    assert spec_tokens(core)[0] > 0
    core = load_tiny(dtype="auto", max_model_len=256, speculation_tokens=0)
    complete(core, REPEATING, greedy(60))
    assert spec_tokens(core) == (0, 0)


def test_what_comes_behind_a_stop_is_dropped_and_not_counted(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256, speculation_tokens=6)
    forced = {"logit_bias": {ord("a"): 100.0}, "temperature": 0.0}
    [stopped] = complete(core, [[1]], SamplingParams(max_tokens=50, stop=("a" * 12,), **forced))
    assert (stopped.text, len(stopped.tokens), stopped.stop_reason) == ("", 12, "a" * 12)
    [limited] = complete(core, [[1]], SamplingParams(max_tokens=23, logprobs=1, **forced))
    assert (limited.text, limited.finish_reason) == ("a" * 23, FinishReason.LENGTH)
    assert len(limited.logprobs) == 23
    drafted, accepted = spec_tokens(core)
    assert 0 < accepted <= drafted


def test_a_completion_made_of_drafts_is_found_again_as_a_prompt(load_tiny: LoadTiny) -> None:
    plain, core = load_tiny(max_model_len=512), load_tiny(max_model_len=512, speculation_tokens=6)
    params = greedy(60, logit_bias={65: 40.0, 66: 40.0})
    [first] = complete(core, [list(range(100))], params)
    drafted, accepted = spec_tokens(core)
    assert 0 < accepted < drafted
    prompt = [*range(100), *first.tokens]
    for again in (prompt, [*prompt, 9]):
        [found] = complete(core, [again], greedy(20))
        [expected] = complete(plain, [again], greedy(20))
        assert found.cached_tokens == 128
        assert found.tokens == expected.tokens


@pytest.mark.parametrize("deferred", [False, True], ids=["waiting", "in flight"])
@pytest.mark.parametrize("num_blocks", [None, 12], ids=["room", "preemption"])
@pytest.mark.parametrize("seed", range(2))
def test_company_cancels_and_preemption_change_nothing(
    seed: int, num_blocks: int | None, deferred: bool, load_tiny: LoadTiny
) -> None:
    options: dict[str, Any] = {"max_model_len": 256, "max_batch_size": 6, "prefill_chunk_tokens": 128}
    reference = load_tiny("qwen3", **options)
    core = load_tiny("qwen3", speculation_tokens=5, **options)
    runner = defer(core) if deferred else None
    todo = jobs(reference, seed, 24, MIXTURE + TWO_TOKENS)
    expected = [outcome(complete(reference, [prompt], params)[0]) for prompt, params in todo]
    if num_blocks is not None:
        while core._pool.num_available > num_blocks:
            core._pool.allocate()
    completions, cancelled = complete_at_random(core, todo, seed)
    for index, (completion, wanted) in enumerate(zip(completions, expected, strict=True)):
        if index in cancelled:
            assert completion.tokens == wanted[0][: len(completion.tokens)]
        else:
            assert outcome(completion) == wanted
    assert spec_tokens(core)[1] > 0
    assert runner is None or not runner.in_flight


def test_steps_run_ahead_while_there_is_nothing_to_guess(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256, speculation_tokens=4)
    runner = defer(core)
    params = SamplingParams(max_tokens=100, temperature=3.0, seed=1, ignore_eos=True)
    [plain] = complete(load_tiny(max_model_len=256), [[1, 2]], params)
    [completion] = complete(core, [[1, 2]], params)
    assert outcome(completion) == outcome(plain)
    assert len(completion.tokens) == 100
    assert runner.num_steps_ahead > 80
