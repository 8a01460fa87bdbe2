"""What others see of an engine: where it is in its life, what it counts, what is loaded. Frozen: crosses threads."""

from __future__ import annotations

import enum

import msgspec


class EngineState(enum.StrEnum):
    """Where the engine is in its life."""

    BOOTING = "booting"
    READY = "ready"
    FAILED = "failed"
    STOPPED = "stopped"


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """State of the engine after a step. The counters only grow."""

    num_running: int = 0
    num_waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    num_preemptions: int = 0
    spec_drafted_tokens: int = 0
    spec_accepted_tokens: int = 0


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One device as the outside sees it. `error` is what ended its boot or its work."""

    device: str
    state: EngineState
    stats: EngineStats
    error: str | None = None


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is loaded, where and how. Sizes in tokens."""

    name: str
    architecture: str
    device: str
    dtype: str
    quantization: str
    vocab_size: int
    max_model_len: int
    kv_cache_tokens: int
    kv_cache_dtype: str
