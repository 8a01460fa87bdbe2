from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from handler.engine.config import ModelConfig, parse_config
from handler.engine.kv_cache import KvCache, control_group_free_bytes, free_memory_bytes, plan_blocks
from handler.errors import ConfigurationError

CPU = torch.device("cpu")
BLOCK_BYTES = 2 * 3 * 32 * 2 * 16 * 4  # keys and values, layers, tokens, heads, dimensions, bytes


def config(**changes: Any) -> ModelConfig:
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    return parse_config(raw | changes)


def plan(**changes: Any) -> int:
    arguments: dict[str, Any] = {
        "max_model_len": 512,
        "max_batch_size": 4,
        "block_size": 32,
        "free_bytes": 1000 * BLOCK_BYTES,
        "fraction": 1.0,
        "dtype": torch.float32,
    }
    return plan_blocks(config(), **(arguments | changes))


def test_a_full_batch_needs_no_more_than_it_can_fill() -> None:
    assert plan() == 1 + 4 * 16
    assert plan(max_model_len=513) == 1 + 4 * 17
    assert plan(max_batch_size=1) == 1 + 16


def test_memory_sets_the_limit_and_the_padding_block_counts() -> None:
    assert plan(free_bytes=40 * BLOCK_BYTES) == 40
    assert plan(free_bytes=40 * BLOCK_BYTES - 1) == 39
    assert plan(free_bytes=80 * BLOCK_BYTES, fraction=0.5) == 40
    assert plan(free_bytes=20 * BLOCK_BYTES, dtype=torch.bfloat16) == 40


def test_the_cache_takes_what_the_plan_counted() -> None:
    cache = KvCache(config(), plan(free_bytes=40 * BLOCK_BYTES), 32, CPU, torch.float32)
    assert sum(tensor.nbytes for tensor in cache.keys + cache.values) == 40 * BLOCK_BYTES


def test_one_sequence_must_fit() -> None:
    assert plan(free_bytes=17 * BLOCK_BYTES) == 17
    with pytest.raises(ConfigurationError) as caught:
        plan(max_model_len=32 * 512, free_bytes=1026 * BLOCK_BYTES - 2, fraction=0.5)
    assert caught.value.key == "MAX_MODEL_LEN"
    assert str(caught.value) == (
        "MAX_MODEL_LEN: 16384 tokens need 12 MiB of KV cache, but KV_CACHE_FRACTION=0.5 of 24 MiB free memory "
        "holds 16352 tokens"
    )
    with pytest.raises(ConfigurationError, match="holds 0 tokens"):
        plan(free_bytes=0)


def test_memory_is_taken_on_first_use() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    big = config(num_hidden_layers=8, num_attention_heads=16, num_key_value_heads=16, head_dim=128)
    cache = KvCache(big, 512, 32, CPU, torch.float32)
    size_bytes = sum(tensor.nbytes for tensor in cache.keys + cache.values)
    assert size_bytes == 2 << 30
    assert process.memory_info().rss - before < 64 << 20
    slots = torch.arange(32 * 7, 32 * 8)
    cache.write(3, torch.ones(32, 16, 128), torch.full((32, 16, 128), 2.0), slots)
    assert process.memory_info().rss - before < 128 << 20
    assert not cache.keys[3][8].any()
    assert cache.keys[3][7].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_written_is_gathered_in_order(dtype: torch.dtype) -> None:
    cache = KvCache(config(), 6, 32, CPU, dtype)
    keys, values = (torch.randn(40, 2, 16, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (1, 2))
    table = [4, 2]
    cache.write(1, keys, values, torch.tensor([table[p // 32] * 32 + p % 32 for p in range(40)]))
    gathered_keys, gathered_values = cache.gather(1, torch.tensor([[4, 2, 0], [0, 0, 0]]))
    assert gathered_keys.shape == (2, 2, 96, 16)
    assert torch.equal(gathered_keys[0, :, :40], keys.transpose(0, 1))
    assert torch.equal(gathered_values[0, :, :40], values.transpose(0, 1))
    assert not gathered_keys[0, :, 40:].any()
    assert not gathered_values[1].any()
    assert not cache.gather(0, torch.tensor([table]))[0].any(), "another layer was written"


def group(directory: Path, limit: str, current: int, inactive_file: int) -> Path:
    (directory / "memory.max").write_text(f"{limit}\n")
    (directory / "memory.current").write_text(f"{current}\n")
    (directory / "memory.stat").write_text(f"anon 5\nfile 9\ninactive_file {inactive_file}\nactive_file 3\n")
    return directory


def test_a_control_group_limits_the_memory_and_idle_file_pages_do_not_count(tmp_path: Path) -> None:
    assert control_group_free_bytes(group(tmp_path, "1000", 900, 700)) == 800
    assert control_group_free_bytes(group(tmp_path, "1000", 900, 0)) == 100
    assert control_group_free_bytes(group(tmp_path, "max", 900, 0)) is None
    assert control_group_free_bytes(tmp_path / "nowhere") is None


def test_some_memory_is_free_here() -> None:
    assert 0 < free_memory_bytes(CPU) <= psutil.virtual_memory().total
