from __future__ import annotations

import pytest

import handler.engine.backend
from bench.engine.driver import first_token, running
from bench.errors import BenchError
from handler.engine.core import EngineCore
from tests.conftest import LoadTiny


def prompts(core: EngineCore, *texts: str) -> list[list[int]]:
    return [core.model.tokenizer.encode(text, add_special_tokens=False) for text in texts]


def test_a_batch_decodes_what_was_asked_for_after_its_first_tokens(load_tiny: LoadTiny) -> None:
    core = load_tiny()
    with running(core, prompts(core, "one", "two", "three" * 100)) as batch:
        sample = batch.decode(5)
        assert sample.num_tokens == 15
        assert len(sample.step_s) == 5
        assert sample.tokens_per_s == pytest.approx(15 / sum(sample.step_s))
        assert len(batch.gaps(4)) == 12
        assert batch.decode(1).num_tokens == 3
    assert not core.has_work


def test_a_repeated_prompt_comes_from_the_cache(load_tiny: LoadTiny) -> None:
    core = load_tiny()
    (prompt,) = prompts(core, "The same words. " * 40)
    first, again = first_token(core, prompt), first_token(core, prompt)
    assert (first.prompt_tokens, first.cached_tokens) == (640, 0)
    assert len(first.step_s) == 3  # chunks of 256
    assert first.ttft_s == sum(first.step_s)
    assert again.cached_tokens >= 512
    assert not core.has_work


def test_running_streams_go_on_beside_a_long_prompt(load_tiny: LoadTiny) -> None:
    core = load_tiny()
    (prompt,) = prompts(core, "A long one. " * 60)
    with running(core, prompts(core, "a", "b")) as batch:
        gaps = batch.gaps_beside(prompt)
    assert len(gaps) == 2 * 4  # one for each of three chunks, and the step after
    assert not core.has_work


def test_a_context_that_is_too_small_is_told(load_tiny: LoadTiny) -> None:
    core = load_tiny(max_model_len=32)
    with pytest.raises(BenchError, match="filled the model's context"), running(core, prompts(core, "a")) as batch:
        batch.decode(100)
    assert not core.has_work


def test_a_cache_that_is_too_small_is_told(load_tiny: LoadTiny, monkeypatch: pytest.MonkeyPatch) -> None:
    per_token = 2 * 3 * 2 * 16 * 4
    monkeypatch.setattr(handler.engine.backend, "free_memory_bytes", lambda _: 41 * 32 * per_token)
    core = load_tiny(max_model_len=1024, kv_cache_fraction=1.0)
    with (
        pytest.raises(BenchError, match="KV_CACHE_FRACTION"),
        running(core, prompts(core, *("x" * 320, "y" * 320, "z" * 320))) as batch,
    ):
        batch.decode(200)
