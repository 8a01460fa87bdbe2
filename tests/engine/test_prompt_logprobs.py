"""Log probabilities of a prompt's own tokens: the same numbers by every runner, however the prompt is computed."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from handler.engine.events import FinishReason, TokenLogprob
from handler.engine.native.library import load_kernels
from handler.engine.runner import TorchRunner
from handler.engine.sampling_params import SamplingParams
from tests.conftest import LoadTiny
from tests.engine.cuda.running import with_cuda_runner
from tests.engine.deferred import defer
from tests.engine.running import complete, greedy, run, submit
from tests.tiny_models import make_model


def prompts(*lengths: int) -> list[list[int]]:
    numbers = random.Random(11)
    return [[numbers.randrange(256) for _ in range(length)] for length in lengths]


def scoring(num_top: int = 3, **changes: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 0, "prompt_logprobs": num_top} | changes))


def entries_of(completion: Any) -> list[TokenLogprob]:
    first, *others = completion.events
    assert all(event.prompt_logprobs is None for event in others)
    return list(first.prompt_logprobs)


def assert_close(found: list[TokenLogprob], expected: list[TokenLogprob]) -> None:
    assert [entry.token_id for entry in found] == [entry.token_id for entry in expected]
    assert [entry.logprob for entry in found] == pytest.approx([entry.logprob for entry in expected], abs=1e-4)
    for one, other in zip(found, expected, strict=True):
        assert [logprob for _, logprob in one.top] == pytest.approx([logprob for _, logprob in other.top], abs=1e-4)


@torch.inference_mode()
def reference(variant: str, prompt: list[int], num_top: int) -> list[TokenLogprob]:
    logprobs: Tensor = make_model(variant)(torch.tensor([prompt])).logits[0].log_softmax(dim=-1)
    top = logprobs.topk(num_top)
    return [
        TokenLogprob(token, float(row[token]), tuple(zip(tokens, values, strict=True)))
        for token, row, tokens, values in zip(
            prompt[1:], logprobs, top.indices.tolist(), top.values.tolist(), strict=False
        )
    ]


@pytest.mark.parametrize("variant", ["llama", "mistral-window"])
@pytest.mark.parametrize("device", ["plain", "cuda", "late"])
def test_they_are_those_of_transformers(variant: str, device: str, load_tiny: LoadTiny) -> None:
    core = load_tiny(variant, max_batch_size=4, max_model_len=512, prefill_chunk_tokens=128)
    if device == "cuda":
        with_cuda_runner(core, max_batch_size=4)
    elif device == "late":
        defer(core)
    texts = prompts(1, 2, 40, 129, 300)
    for params in (scoring(), scoring(max_tokens=2, temperature=0.0)):
        for text, completion in zip(texts, complete(core, texts, params), strict=True):
            assert_close(entries_of(completion), reference(variant, text, 3))


def test_they_are_those_of_transformers_own_model(load_tiny: LoadTiny) -> None:
    text = prompts(140)[0]
    [completion] = complete(load_tiny("gemma2", max_model_len=512), [text], scoring())
    assert_close(entries_of(completion), reference("gemma2", text, 3))


def test_a_prompt_has_the_numbers_that_its_tokens_had_when_they_were_generated(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=512)
    [text] = prompts(140)
    [generated] = complete(core, [text], greedy(30, logprobs=2))
    [scored] = complete(core, [text + generated.tokens], scoring(2))
    assert_close(entries_of(scored)[139:], generated.logprobs)


@pytest.mark.skipif(load_kernels() is None, reason="the int8 kernels are not there")
def test_in_int8_they_are_the_same_numbers_to_the_bit(load_tiny: LoadTiny) -> None:
    core = load_tiny(quantization="int8", max_model_len=512, prefill_chunk_tokens=64, max_batch_size=4)
    assert not isinstance(core._runner, TorchRunner)
    texts = prompts(140, 3)
    generated = complete(core, texts, greedy(30, logprobs=2))
    whole = [text + completion.tokens for text, completion in zip(texts, generated, strict=True)]
    submit(core, texts[1], greedy(20))  # shares the steps, and has its own logits among theirs
    for text, completion, scored in zip(texts, generated, complete(core, whole, scoring(2)), strict=True):
        assert entries_of(scored)[len(text) - 1 :] == completion.logprobs
    assert len(core._runner._decoder._logits) <= 4 * 6, "memory for whole prompts is not kept"  # type: ignore[attr-defined]


def test_nothing_to_generate_is_an_end_without_tokens(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=100)
    for params in (scoring(), SamplingParams(max_tokens=0)):
        for text in prompts(1, 40, 100):  # the context may be full
            [completion] = complete(core, [text], params)
            (event,) = completion.events
            assert (event.text, event.token_ids, event.logprobs) == ("", (), None)
            assert event.finish_reason is FinishReason.LENGTH
            assert event.prompt_logprobs is None or len(event.prompt_logprobs) == len(text) - 1


def test_the_cache_is_written_and_not_read(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=512)
    [text] = prompts(300)
    [first] = complete(core, [text], scoring())
    [again] = complete(core, [text], scoring())
    assert (first.cached_tokens, again.cached_tokens) == (0, 0)
    assert entries_of(first) == entries_of(again)
    [other] = complete(core, [text], greedy(2))
    assert other.cached_tokens == 256


@pytest.mark.parametrize("late", [False, True])
def test_preemption_loses_and_repeats_none(late: bool, load_tiny: LoadTiny) -> None:
    texts = prompts(60, 200)
    core = load_tiny(max_model_len=352, prefill_chunk_tokens=128)
    if late:
        defer(core)
    for _ in range(core._pool.num_available - 10):  # 2 blocks for the first, 7 for the second
        core._pool.allocate()
    older = submit(core, texts[0], greedy(80))
    scored = submit(core, texts[1], scoring(max_tokens=70, temperature=0.0))
    completions = run(core)
    assert core.stats().num_preemptions > 0
    assert_close(entries_of(completions[scored]), reference("llama", texts[1], 3))
    assert len(completions[scored].tokens) == 70
    assert len(completions[older].tokens) == 80


@pytest.mark.parametrize("device", ["plain", "cuda", "int8"])
@pytest.mark.parametrize("is_forgotten", [False, True])
def test_a_preemption_in_mid_prompt_goes_on_where_it_was(
    is_forgotten: bool, device: str, load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, text = prompts(1, 300)
    quantization = "int8" if device == "int8" else "none"
    core = load_tiny(
        max_model_len=352, prefill_chunk_tokens=320, max_batch_size=4, quantization=quantization, speculation_tokens=0
    )
    core._scheduler._chunk_tokens = 128  # as if other prompts took the rest
    [expected] = complete(core, [text], scoring())
    if device == "cuda":
        with_cuda_runner(core, max_batch_size=4)
    submit(core, older, greedy(100))
    number = submit(core, text, scoring())
    core.step()  # the other one's prompt leaves no whole tile
    core.step()
    sequence, _ = core._sequences[number]
    assert 0 < sequence.num_scored_rows < 299
    while core._in_flight:
        core._collect()
    core._scheduler._preempt(sequence)
    if is_forgotten:  # by a cache that had to give the blocks to others
        monkeypatch.setattr(core._pool, "lookup", lambda _: None)
        core._scheduler._chunk_tokens = 320
    completions = run(core)
    assert_close(entries_of(completions[number]), entries_of(expected))


def test_no_more_logits_than_a_slice_are_held(load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    core = load_tiny(max_model_len=512, prefill_chunk_tokens=512)
    heights: list[int] = []
    head = core._runner._decoder.logits  # type: ignore[attr-defined]

    def watched(hidden: Tensor) -> Tensor:
        heights.append(len(hidden))
        return head(hidden)

    monkeypatch.setattr(core._runner._decoder, "logits", watched)  # type: ignore[attr-defined]
    complete(core, prompts(300), scoring())
    assert max(heights) <= 32
    assert sum(heights) == 299 + 1
