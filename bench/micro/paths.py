"""The stages that are measured, by name: each a factory of a callable that does the same work whenever it is called.

A factory imports what it needs when it is called, so that a process for one path pays for that one: only `sampler`
imports torch. Knows neither pytest nor who counts what.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

Path = Callable[[], object]
"""One call is one round of work; what it returns says whether the work was done."""


def _make(module: str, factory: str) -> Path:
    make: Callable[[], Any] = getattr(importlib.import_module(f"bench.micro.{module}"), factory)
    path: Path = make()
    return path


PATHS: Mapping[str, Callable[[], Path]] = MappingProxyType(
    {
        "decode": partial(_make, "requests", "decode"),
        "validation": partial(_make, "requests", "validation"),
        "refusal": partial(_make, "requests", "refusal"),
        "sse": partial(_make, "streaming", "sse"),
        "spool": partial(_make, "spooling", "spool"),
        "scheduler": partial(_make, "scheduling", "scheduler"),
        "sampler": partial(_make, "sampling", "sampler"),
        "encode": partial(_make, "tokenizing", "encode"),
        "incremental_decode": partial(_make, "tokenizing", "incremental_decode"),
    }
)
"""`encode` and `incremental_decode` want the embedded model prepared below PILOTLIGHT_HOME, the others want nothing."""
