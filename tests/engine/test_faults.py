"""Steps that fail: who is to blame ends, whoever is not goes on as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from handler.engine.core import EngineCore
from handler.engine.events import FinishReason
from handler.engine.faults import is_device_lost
from handler.engine.sampling_params import SamplingParams
from handler.engine.step import Batch
from handler.errors import EngineLostError
from tests.conftest import LoadTiny
from tests.engine.deferred import defer
from tests.engine.running import Completion, complete, greedy, run, submit

PROMPTS = [[number, 7, *range(30 * number)] for number in range(1, 5)]
STYLES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.9, "seed": 5},
    {"temperature": 1.1, "seed": 6, "top_p": 0.9, "repetition_penalty": 1.2},
    {"temperature": 0.0, "logprobs": 2, "presence_penalty": 0.4},
]
JOBS = [
    (prompt, SamplingParams(max_tokens=40, ignore_eos=True, **style))
    for prompt, style in zip(PROMPTS, STYLES, strict=True)
]
OPTIONS: dict[str, Any] = {"max_batch_size": 4, "prefill_chunk_tokens": 128}


class Faults:
    """Makes the runner of a core fail when `is_due` says so of a batch; counts its steps, and those that failed."""

    def __init__(self, core: EngineCore, is_due: Callable[[Batch], bool], error: type[Exception] = MemoryError) -> None:
        self.sizes: list[int] = []
        self.failed: list[int] = []
        launch = core._runner.launch

        def launch_or_fail(batch: Batch) -> Any:
            self.sizes.append(len(batch))
            if is_due(batch):
                self.failed.append(len(batch))
                raise error("the device has no memory left")
            return launch(batch)

        core._runner.launch = launch_or_fail  # type: ignore[method-assign]


def expected(load_tiny: LoadTiny) -> list[list[int]]:
    return [complete(load_tiny(**OPTIONS), [prompt], params)[0].tokens for prompt, params in JOBS]


def submit_all(core: EngineCore) -> list[int]:
    return [submit(core, prompt, params) for prompt, params in JOBS]


def tokens_of(completions: dict[int, Completion], ids: list[int]) -> list[list[int]]:
    return [completions[sequence_id].tokens for sequence_id in ids]


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("fault_at", [1, 2, 9, 30])
def test_a_fault_that_passes_costs_nobody_a_token(runs_ahead: bool, fault_at: int, load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    if runs_ahead:
        defer(core)
    faults = Faults(core, lambda _: len(faults.sizes) == fault_at)
    ids = submit_all(core)
    completions = run(core)
    assert faults.failed
    assert tokens_of(completions, ids) == expected(load_tiny)


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("guilty", range(4))
def test_who_fails_alone_ends_and_the_others_lose_nothing(guilty: int, runs_ahead: bool, load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    if runs_ahead:
        defer(core)
    ids = submit_all(core)

    def is_due(batch: Batch) -> bool:
        return any(chunk.sequence.id == ids[guilty] and chunk.sequence.num_output_tokens > 12 for chunk in batch)

    faults = Faults(core, is_due)
    completions = run(core)
    wanted = expected(load_tiny)
    for index, sequence_id in enumerate(ids):
        completion = completions[sequence_id]
        if index == guilty:
            assert completion.finish_reason is FinishReason.ERROR
            assert str(completion.events[-1].error) == "the engine failed: MemoryError"
            assert completion.tokens == wanted[index][: len(completion.tokens)]
            assert 12 <= len(completion.tokens) <= 14
        else:
            assert completion.tokens == wanted[index]
    assert sorted(faults.failed) == [1, 4]
    assert max(faults.sizes[-5:]) == 3  # and nobody runs alone any more


def test_where_nobody_is_to_blame_fewer_run_together(load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    faults = Faults(core, lambda batch: len(batch) > 2)
    ids = submit_all(core)
    completions = run(core)
    assert tokens_of(completions, ids) == expected(load_tiny)
    assert 1 <= len(faults.failed) <= 3  # once found out it is remembered, and tried again only now and then
    assert faults.sizes.count(2) > 30


def test_room_that_was_taken_comes_back(load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    faults = Faults(core, lambda _: len(faults.sizes) == 20)
    for prompt in ([1], [2], [3], [4]):
        submit(core, prompt, greedy(400))
    run(core)
    after = faults.sizes[26:]
    assert after[0] == 2
    assert 4 in after


@pytest.mark.parametrize("runs_ahead", [False, True])
@pytest.mark.parametrize("num_prompts", [1, 4])
def test_what_a_failed_step_leaves_in_the_cache_reaches_nobody(
    num_prompts: int, runs_ahead: bool, load_tiny: LoadTiny
) -> None:
    options = OPTIONS | {"dtype": "float32", "quantization": "none"}  # attention that reads what it weighs by zero
    wanted = [complete(load_tiny("llama", **options), [prompt], params)[0].tokens for prompt, params in JOBS]
    core = load_tiny("llama", **options)
    cache = core._runner._cache  # type: ignore[attr-defined]
    if runs_ahead:
        defer(core)

    def spoil(batch: Batch) -> bool:
        if len(batch) != num_prompts or len(faults.sizes) < 6 or faults.failed:
            return False
        for chunk in batch:
            blocks = chunk.sequence.block_table[chunk.start // cache.block_size :]
            with torch.inference_mode():
                for tensor in (*cache.keys, *cache.values):
                    tensor[blocks] = float("nan")
        return True

    faults = Faults(core, spoil)
    ids = [submit(core, prompt, params) for prompt, params in JOBS[:num_prompts]]
    completions = run(core)
    assert faults.failed == [num_prompts]
    assert not any(tensor.isnan().any() for tensor in (*cache.keys, *cache.values))
    if num_prompts == 1:  # which is to blame
        assert completions[ids[0]].finish_reason is FinishReason.ERROR
    else:
        assert tokens_of(completions, ids) == wanted


def test_a_suspect_may_be_cancelled(load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    ids = submit_all(core)
    faults = Faults(core, lambda batch: len(batch) > 1 and not faults.failed)
    completions: dict[int, Completion] = {}
    while not faults.failed:
        core.step()
    core.cancel(ids[0])
    core.cancel(ids[2])
    completions = run(core)
    wanted = expected(load_tiny)
    assert tokens_of(completions, [ids[1], ids[3]]) == [wanted[1], wanted[3]]


def test_suspects_who_all_leave_before_their_turn_take_no_room_with_them(load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    ids = submit_all(core)
    faults = Faults(core, lambda batch: len(batch) > 1 and not faults.failed)
    while not faults.failed:
        core.step()
    for sequence_id in ids:
        core.cancel(sequence_id)
    again = submit_all(core)
    completions = run(core)
    assert tokens_of(completions, again) == expected(load_tiny)
    assert faults.sizes.index(4, 1) < 10, "they run together at once"


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_suspects_without_room_for_all_are_tried_all_the_same(runs_ahead: bool, load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    if runs_ahead:
        defer(core)
    while core._pool.num_available > 12:
        assert core._pool.allocate() is not None
    ids = submit_all(core)
    faults = Faults(core, lambda _: len(faults.sizes) in {3, 11})
    completions = run(core)
    assert len(faults.failed) == 2
    assert tokens_of(completions, ids) == expected(load_tiny)


def test_a_device_on_which_nothing_works_is_lost(load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    Faults(core, lambda _: True)
    for number in range(9):
        submit(core, [number], greedy(3))
    with pytest.raises(EngineLostError, match="8 steps in a row failed: MemoryError"):
        run(core)


def test_preparations_that_fail_are_given_up(load_tiny: LoadTiny, caplog: pytest.LogCaptureFixture) -> None:
    core = load_tiny(**OPTIONS)
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise MemoryError

    core._runner.idle = fail  # type: ignore[method-assign]
    core.idle()
    core.idle()
    assert calls == [1]
    assert "preparing steps failed" in caplog.text


def test_the_numbers_of_a_scored_prompt_must_be_finite(load_tiny: LoadTiny) -> None:
    core = load_tiny("llama", dtype="float32", quantization="none")
    decoder: Any = core._runner._decoder  # type: ignore[attr-defined]
    with torch.inference_mode():
        decoder._embedding[77] = float("nan")
    completion = complete(core, [[1, 77, 2]], SamplingParams(max_tokens=0, prompt_logprobs=0))[0]
    assert completion.finish_reason is FinishReason.ERROR
    assert "not finite" in str(completion.events[-1].error)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported",
        "CUDA error: unspecified launch failure",
        "Triton Error [CUDA]: an illegal memory access was encountered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "CUDA error: uncorrectable ECC error encountered",
    ],
)
def test_a_lost_device_is_known_by_what_it_says(text: str) -> None:
    assert is_device_lost(RuntimeError(text))
    wrapped = ValueError("the step")
    wrapped.__cause__ = RuntimeError(text)
    assert is_device_lost(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        MemoryError(),
        IndexError("index out of range in self"),
    ],
)
def test_what_a_device_survives_is_no_loss(error: Exception) -> None:
    assert not is_device_lost(error)


def test_who_has_left_before_a_step_in_flight_fails_is_no_suspect(load_tiny: LoadTiny) -> None:
    core = load_tiny(**OPTIONS)
    runner = defer(core)
    ids = submit_all(core)
    while runner.num_steps < 9:
        core.step()
    [step] = core._in_flight
    core.cancel(ids[0])
    faults = Faults(core, lambda _: False)

    def fail() -> Any:
        runner.in_flight.popleft()
        raise MemoryError("the device has no memory left")

    step.pending.wait = fail  # type: ignore[method-assign]
    completions = run(core)
    assert {completions[sequence_id].finish_reason for sequence_id in ids[1:]} == {FinishReason.LENGTH}
    assert faults.sizes[:3] == [1, 1, 1]  # each that is left is tried, and nobody else
