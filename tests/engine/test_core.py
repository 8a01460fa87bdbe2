from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from handler.boot import BootTimeline
from handler.engine.backend import tile_tokens
from handler.engine.core import EngineCore
from handler.engine.events import FinishReason
from handler.engine.loading import load_core
from handler.engine.options import EngineOptions
from handler.engine.sampling_params import SamplingParams
from handler.engine.snapshot import Snapshot
from handler.engine.status import EngineStats
from handler.errors import ConfigurationError, EngineError, SnapshotError
from tests.conftest import LoadTiny
from tests.engine.running import complete, greedy, run, submit
from tests.tiny_models import END_TOKEN


def used_blocks(core: EngineCore) -> int:
    core._pool.check()
    return core.stats().kv_blocks_used


def test_a_loaded_model_tells_what_it_is(load_tiny: LoadTiny) -> None:
    core = load_tiny("qwen3", max_batch_size=2, max_model_len=100)
    info = core.model.info
    assert (info.name, info.architecture, info.device, info.dtype) == ("qwen3", "Qwen3ForCausalLM", "cpu", "float32")
    assert (info.quantization, info.vocab_size, info.max_model_len) == ("none", 259, 100)
    assert info.kv_cache_tokens == 2 * 128
    assert core.model.defaults.end_token_ids == (END_TOKEN,)
    assert core.model.chat_template is None


def test_the_boot_leaves_no_trace_in_the_counters(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_batch_size=2, max_model_len=100)
    assert core.stats() == EngineStats(kv_blocks_total=8)
    assert not core.has_work


def test_the_context_is_the_models_unless_told_otherwise(load_tiny: LoadTiny) -> None:
    assert load_tiny("llama").model.info.max_model_len == 1024
    assert load_tiny("llama-linear-rope").model.info.max_model_len == 2048


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"device": "tpu"}, "MODEL_DEVICE", "no device tpu"),
        ({"device": "cpu:x"}, "MODEL_DEVICE", "no device cpu:x"),
        ({"device": "meta"}, "MODEL_DEVICE", "neither cpu nor cuda"),
        ({"dtype": "float8"}, "TORCH_DTYPE", "float8 is none of float32, bfloat16, float16"),
        ({"dtype": "int8"}, "TORCH_DTYPE", "int8 is none of"),
        ({"dtype": "nn"}, "TORCH_DTYPE", "nn is none of"),
        ({"max_model_len": 1025}, "MAX_MODEL_LEN", "1025 is beyond the model's 1024 tokens"),
        ({"kv_cache_fraction": 1e-9}, "MAX_MODEL_LEN", "KV_CACHE_FRACTION=1e-09"),
    ],
)
def test_an_option_that_cannot_work_names_its_key(
    options: dict[str, Any], key: str, message: str, load_tiny: LoadTiny
) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_tiny(**options)
    assert caught.value.key == key


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(device: str, load_tiny: LoadTiny) -> None:
    with pytest.raises(ConfigurationError, match=f"MODEL_DEVICE: {device} asked for, but torch finds no CUDA device"):
        load_tiny(device=device)


def test_an_unknown_architecture_is_refused_by_name(tiny_snapshot: Callable[[str], Snapshot], tmp_path: Path) -> None:
    snapshot = tiny_snapshot("llama")
    directory = tmp_path / "copy"
    shutil.copytree(snapshot.directory, directory)
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(raw | {"architectures": ["FalconForCausalLM"]}))
    changed = msgspec.structs.replace(snapshot, directory=directory)
    with pytest.raises(SnapshotError, match="FalconForCausalLM cannot be served: transformers has no causal language"):
        load_core(changed, EngineOptions(device="cpu"), BootTimeline())


def test_cancelling_a_waiting_sequence_frees_its_place(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_batch_size=1, max_model_len=256)
    first = submit(core, [1, 2, 3], greedy(4))
    waiting = submit(core, [4, 5, 6], greedy(4))
    core.step()
    assert core.stats().num_waiting == 1
    core.cancel(waiting)
    assert core.stats().num_waiting == 0
    assert set(run(core)) == {first}


def test_cancelling_in_the_middle_of_a_prompt_frees_its_blocks_at_once(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=512, prefill_chunk_tokens=128)
    sequence = submit(core, [1, 2, 3] * 100, greedy(4))
    assert core.step() == []
    assert used_blocks(core) == 10
    core.cancel(sequence)
    assert used_blocks(core) == 0
    assert not core.has_work


def test_cancelling_while_decoding_frees_the_blocks_at_once_and_leaves_the_others(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=512)
    [alone] = complete(core, [[7] * 40], greedy(10))
    kept = submit(core, [7] * 40, greedy(10))
    cancelled = submit(core, [9] * 70, greedy(100))
    events = [*core.step(), *core.step()]
    assert used_blocks(core) == 2 + 3
    core.cancel(cancelled)
    assert used_blocks(core) == 2
    core.cancel(cancelled)
    events += [(kept, event) for completion in run(core).values() for event in completion.events]
    assert [token for number, event in events if number == kept for token in event.token_ids] == alone.tokens


def test_all_can_be_cancelled(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_batch_size=2, max_model_len=256)
    ids = [submit(core, [number] * 50, greedy(20)) for number in range(4)]
    core.step()
    assert core.cancel_all() == ids
    assert used_blocks(core) == 0
    assert not core.has_work
    assert complete(core, [[1]], greedy(2))[0].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize(("prompt", "max_tokens"), [([], 4), ([1] * 97, 4), ([1], 100)])
def test_what_can_never_fit_is_refused_before_it_harms_others(
    prompt: list[int], max_tokens: int, load_tiny: LoadTiny
) -> None:
    core = load_tiny(max_model_len=100)
    with pytest.raises(EngineError, match="do not fit a context of 100"):
        submit(core, prompt, greedy(max_tokens))
    assert not core.has_work


@pytest.mark.parametrize("token", [-1, 259, 10**6])
def test_a_token_that_the_model_does_not_have_is_refused_by_field(token: int, load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=100)
    message = f"token {token} is outside the model's vocabulary of 259"
    with pytest.raises(EngineError, match=f"prompt: {message}"):
        submit(core, [1, token, 2], greedy(4))
    with pytest.raises(EngineError, match=f"stop_token_ids: {message}"):
        submit(core, [1], greedy(4, stop_token_ids=(5, token), min_tokens=2))
    with pytest.raises(EngineError, match=f"logit_bias: {message}"):
        submit(core, [1], greedy(4, logit_bias={7: 1.0, token: 1.0}))
    assert not core.has_work


@pytest.mark.parametrize(("length", "max_tokens"), [(1, 99), (96, 4), (99, 1), (64, 36)])
def test_a_sequence_may_fill_the_context(length: int, max_tokens: int, load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=100, max_batch_size=1)
    [completion] = complete(core, [list(range(length))], greedy(max_tokens))
    assert len(completion.tokens) == max_tokens
    assert completion.finish_reason is FinishReason.LENGTH


def test_no_more_than_max_batch_size_run_together(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_batch_size=3, max_model_len=128)
    for number in range(7):
        submit(core, [number], greedy(5))
    running = []
    while core.has_work:
        core.step()
        running.append(core.stats().num_running)
    assert max(running) == 3
    assert len(running) == 15


def test_the_end_token_ends_a_sequence(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=128)
    params = SamplingParams(max_tokens=9, temperature=0.0, logit_bias={END_TOKEN: 100.0}, min_tokens=3)
    [completion] = complete(core, [[1, 2]], params)
    assert completion.tokens[-1] == END_TOKEN
    assert len(completion.tokens) == 4
    assert completion.finish_reason is FinishReason.STOP
    ignoring = msgspec.structs.replace(params, ignore_eos=True, min_tokens=0)
    [completion] = complete(core, [[1, 2]], ignoring)
    assert completion.tokens == [END_TOKEN] * 9
    assert (completion.text, completion.finish_reason) == ("", FinishReason.LENGTH)


def test_a_stop_string_ends_a_sequence_before_it(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=128)
    params = SamplingParams(max_tokens=9, temperature=0.0, logit_bias={ord("l"): 100.0}, stop=("ll",), min_tokens=4)
    [completion] = complete(core, [[1]], params)
    assert (completion.text, completion.finish_reason, completion.stop_reason) == ("ll", FinishReason.STOP, "ll")
    assert len(completion.tokens) == 4


def test_events_tell_when_the_sequence_began(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=256, max_batch_size=1)
    first, second = submit(core, [1], greedy(3)), submit(core, [2], greedy(3))
    completions = run(core)
    for number in (first, second):
        assert len({event.first_scheduled_s for event in completions[number].events}) == 1
        assert [event.finish_reason for event in completions[number].events] == [None, None, FinishReason.LENGTH]
    began = [completions[number].events[0].first_scheduled_s for number in (first, second)]
    assert None not in began
    assert began[0] < began[1]  # type: ignore[operator]


def test_a_long_prompt_says_that_it_has_begun(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=512, prefill_chunk_tokens=128, max_batch_size=1)
    long, waiting = submit(core, list(range(1, 251)) * 2, greedy(2)), submit(core, [1], greedy(1))
    assert core.step() == []
    ((number, begun),) = core.take_begun()
    assert (number, begun.token_ids, begun.finish_reason) == (long, (), None)
    assert begun.first_scheduled_s is not None
    completions = run(core)
    assert core.take_begun() == []
    assert [len(event.token_ids) for event in completions[long].events] == [1, 1]
    assert completions[long].events[0].first_scheduled_s == begun.first_scheduled_s
    assert [len(event.token_ids) for event in completions[waiting].events] == [1]


def test_fp8_is_refused_where_the_device_lacks_it(load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("not on this device")

    monkeypatch.setattr(torch, "_scaled_mm", refuse)
    with pytest.raises(ConfigurationError, match="QUANTIZATION: cpu has no product of fp8 matrices; use int8 or none"):
        load_tiny(quantization="fp8")


def test_a_tile_is_whole_blocks_and_fits_a_chunk() -> None:
    options = EngineOptions(prefill_chunk_tokens=128)
    assert tile_tokens(32, options) == 128
    with pytest.raises(ConfigurationError, match="PREFILL_CHUNK_TOKENS: 128 is less than the 256 tokens of a tile"):
        tile_tokens(256, options)


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "int8"},
        {"quantization": "int8", "dtype": "bfloat16"},
        {"dtype": "bfloat16"},
        {"dtype": "float16"},
    ],
)
@pytest.mark.parametrize("variant", ["llama-biases", "qwen3-tied-biases"])
def test_fewer_bits_say_nearly_the_same(options: dict[str, Any], variant: str, load_tiny: LoadTiny) -> None:
    prompts = [list(range(number, number + 30)) for number in range(8)]
    params = greedy(1, logprobs=20)
    exact, rounded = load_tiny(variant), load_tiny(variant, **options)
    assert rounded.model.info.quantization == options.get("quantization", "none")
    differences = []
    for ours, theirs in zip(complete(rounded, prompts, params), complete(exact, prompts, params), strict=True):
        wanted = dict(theirs.logprobs[0].top)
        found = dict(ours.logprobs[0].top)
        assert len(wanted.keys() & found.keys()) >= 15
        differences += [abs(found[token] - wanted[token]) for token in found.keys() & wanted.keys()]
    assert sum(differences) / len(differences) < 0.1
    assert complete(rounded, prompts[:1], greedy(30))[0].finish_reason is FinishReason.LENGTH
