"""Memory of a process as the kernel counts it, and what the model's own shape says it needs."""

from __future__ import annotations

from pathlib import Path

from handler.engine.config import ModelConfig
from handler.engine.status import ModelInfo

_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_QUANTIZED_BYTES = {"int8": 1, "fp8": 1}
_KIB_FIELDS = {"VmRSS": "rss_bytes", "VmHWM": "peak_bytes", "RssAnon": "rss_anon_bytes", "RssFile": "rss_file_bytes"}


def process_memory(pid: int) -> dict[str, float]:
    """Resident memory now and at its peak (proc_pid_status(5)); anonymous memory apart from mapped files."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    values = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return {name: float(values[field].split()[0]) * 1024 for field, name in _KIB_FIELDS.items() if field in values}


def linear_weights(config: ModelConfig) -> int:
    """Elements of all linear layers and the head: what a step that computes at least one row has to read."""
    query, key_value = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    attention = config.hidden_size * (query + 2 * key_value) + query * config.hidden_size
    mlp = 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (attention + mlp) + config.vocab_size * config.hidden_size


def weight_bytes(config: ModelConfig, info: ModelInfo) -> int:
    """Bytes of these in the form in which they are computed with; scales are not counted."""
    return linear_weights(config) * _QUANTIZED_BYTES.get(info.quantization, _ITEM_BYTES[info.dtype])


def kv_bytes(config: ModelConfig, info: ModelInfo, num_tokens: int) -> int:
    """Bytes of keys and values of that many tokens."""
    per_token = 2 * config.num_layers * config.num_kv_heads * config.head_dim * _ITEM_BYTES[info.kv_cache_dtype]
    return num_tokens * per_token
