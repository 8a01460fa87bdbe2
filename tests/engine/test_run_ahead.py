"""A core that keeps a step in flight yields what one does that waits for every step."""

from __future__ import annotations

import random
from typing import Any

import pytest

from handler.engine.core import EngineCore
from handler.engine.events import FinishReason
from handler.engine.sampling_params import SamplingParams
from tests.conftest import LoadTiny
from tests.engine.deferred import defer
from tests.engine.running import Completion, complete, complete_alone, greedy, run, submit

MIXTURE: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.0, "max_tokens": 1},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.2, "top_k": 30, "min_p": 0.01, "stop_token_ids": tuple(range(0, 250, 9))},
    {"repetition_penalty": 1.2, "presence_penalty": 0.4, "frequency_penalty": 0.2},
    {"temperature": 0.5, "min_tokens": 6, "stop_token_ids": tuple(range(0, 250, 5)), "logprobs": 2},
    {"logit_bias": {65: 4.0}},
]

Job = tuple[list[int], SamplingParams]


def jobs(reference: EngineCore, seed: int, number: int, styles: list[dict[str, Any]]) -> list[Job]:
    """Prompts with parameters of all styles; every third ends by a stop string."""
    numbers = random.Random(seed)
    result: list[Job] = []
    for index in range(number):
        prompt = [numbers.randrange(256) for _ in range(numbers.choice([1, 7, 31, 32, 60, 128, 150]))]
        style = {"max_tokens": numbers.randint(1, 40), "seed": index, "ignore_eos": True} | styles[index % len(styles)]
        params = SamplingParams(**style)
        if index % 3 == 0:
            text = complete(reference, [prompt], params)[0].text
            params = SamplingParams(**(style | {"stop": (text[len(text) // 2 :][:2] or "x",)}))
        result.append((prompt, params))
    return result


def outcome(completion: Completion) -> tuple[list[int], str, FinishReason | None, str | int | None]:
    return completion.tokens, completion.text, completion.finish_reason, completion.stop_reason


def complete_at_random(core: EngineCore, todo: list[Job], seed: int) -> tuple[list[Completion], set[int]]:
    """The jobs arriving over time, some cancelled in the middle; all completions, and which were cancelled."""
    numbers = random.Random(seed)
    ids: list[int] = []
    cancelled: set[int] = set()
    completions = [Completion([]) for _ in todo]
    while core.has_work or len(ids) < len(todo):
        while len(ids) < len(todo) and numbers.random() < 0.4:
            ids.append(submit(core, *todo[len(ids)]))
        if ids and numbers.random() < 0.08:
            index = numbers.randrange(len(ids))
            if not (completions[index].events and completions[index].finish_reason):
                core.cancel(ids[index])
                cancelled.add(index)
        for sequence_id, event in core.step():
            index = ids.index(sequence_id)
            assert index not in cancelled, "an event after the cancellation"
            completions[index].events.append(event)
    core._pool.check()
    return completions, cancelled


@pytest.mark.parametrize("num_blocks", [None, 12], ids=["room", "preemption"])
@pytest.mark.parametrize("seed", range(4))
def test_tokens_are_those_of_a_core_that_waits(seed: int, num_blocks: int | None, load_tiny: LoadTiny) -> None:
    options: dict[str, Any] = {"max_model_len": 256, "max_batch_size": 6, "prefill_chunk_tokens": 128}
    reference, core = load_tiny("qwen3", **options), load_tiny("qwen3", **options)
    runner = defer(core)
    todo = jobs(reference, seed, 24, MIXTURE)
    expected = [outcome(complete(reference, [prompt], params)[0]) for prompt, params in todo]
    if num_blocks is not None:
        while core._pool.num_available > num_blocks:
            core._pool.allocate()
    blocks_of_nobody = core.stats().kv_blocks_used
    completions, cancelled = complete_at_random(core, todo, seed)
    for index, (completion, wanted) in enumerate(zip(completions, expected, strict=True)):
        if index in cancelled:
            assert completion.tokens == wanted[0][: len(completion.tokens)]
        else:
            assert outcome(completion) == wanted
    assert core.stats().kv_blocks_used == blocks_of_nobody
    assert not runner.in_flight
    assert runner.num_steps_ahead > 0
    assert len(cancelled) < len(todo) / 2
    if num_blocks is not None:
        assert core.stats().num_preemptions > 0


def test_alone_all_but_the_first_step_run_ahead(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256)
    runner = defer(core)
    [completion] = complete(core, [[1, 2, 3]], greedy(20))
    assert len(completion.tokens) == 20
    assert (runner.num_steps, runner.num_steps_ahead) == (20, 19), "no step is wasted where max_tokens are known"


def test_the_result_of_the_step_launched_behind_the_last_token_is_dropped(load_tiny: LoadTiny) -> None:
    plain, core = load_tiny(max_model_len=256), load_tiny(max_model_len=256)
    [whole] = complete(plain, [[1, 2, 3]], greedy(20))
    stop = whole.tokens[9]
    assert stop not in whole.tokens[:9]
    runner = defer(core)
    [completion] = complete(core, [[1, 2, 3]], greedy(20, stop_token_ids=(stop,)))
    assert completion.tokens == whole.tokens[:10]
    assert (runner.num_steps, runner.num_steps_ahead) == (11, 10)


@pytest.mark.parametrize("changes", [{"logprobs": 1}, {"presence_penalty": 0.5}, {"min_tokens": 2}])
def test_a_batch_with_one_that_needs_its_history_does_not_fall_apart(
    changes: dict[str, Any], load_tiny: LoadTiny
) -> None:
    core = load_tiny(max_model_len=256)
    runner = defer(core)
    first = submit(core, [1, 2], greedy(10))
    core.step()
    second = submit(core, [3, 4], greedy(10, **changes))
    completions = run(core)
    assert len(completions[first].tokens) == len(completions[second].tokens) == 10
    assert runner.num_steps == 11, "both advance in every step"
    assert runner.num_steps_ahead == 1, "the second one's prompt beside the first one's token"


def test_a_prefix_is_published_when_its_tokens_are_known(load_tiny: LoadTiny) -> None:
    plain, core = load_tiny(max_model_len=512), load_tiny(max_model_len=512)
    defer(core)
    prompt = list(range(100))
    [first] = complete(core, [prompt], greedy(40))
    again = [prompt + first.tokens, prompt + first.tokens + [7]]
    for completion, expected in zip(
        complete(core, again, greedy(8)), complete_alone(plain, again, greedy(8)), strict=True
    ):
        assert completion.cached_tokens == 128
        assert completion.tokens == expected.tokens


def test_what_is_in_flight_for_a_cancelled_sequence_reaches_nobody(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256)
    expected = complete(core, [[5, 6]], greedy(9))[0].tokens
    runner = defer(core)
    core.add(77, [1, 2], greedy(20))
    core.step()
    core.cancel(77)
    assert core.has_work, "the step in flight is to be read"
    core.add(77, [5, 6], greedy(9))
    assert run(core)[77].tokens == expected
    core.add(78, [1, 2], greedy(20))
    core.step()
    core.cancel(78)
    assert core.has_work
    assert core.step() == []
    assert not core.has_work
    assert not runner.in_flight


def test_a_step_that_fails_takes_the_one_behind_it_along(load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    core = load_tiny(max_model_len=256)
    expected = [complete(core, [prompt], greedy(9))[0].tokens for prompt in ([5, 6], [1, 2])]
    runner = defer(core)
    ids = [submit(core, prompt, greedy(9)) for prompt in ([5, 6], [1, 2])]
    core.step()
    failing = runner.in_flight[0]

    def fail() -> object:
        runner.in_flight.popleft()
        return 1 / 0

    monkeypatch.setattr(failing, "wait", fail)
    assert core.step() == []
    assert not runner.in_flight, "nobody left a step unread"
    assert core.stats().kv_blocks_used == 0
    completions = run(core)
    assert [completions[sequence_id].tokens for sequence_id in ids] == expected
