"""What the engine is asked to be. Frozen; knows nothing of where settings come from."""

from __future__ import annotations

from typing import Literal

import msgspec


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine needs of the settings, under the same names."""

    device: str = "auto"
    dtype: str = "auto"
    quantization: Literal["auto", "none", "int8", "fp8"] = "auto"
    max_batch_size: int = 16
    max_model_len: int | None = None
    prefill_chunk_tokens: int = 256
    kv_cache_fraction: float | None = None
    speculation_tokens: int | None = None
