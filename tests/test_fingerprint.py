from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import handler.fingerprint
from handler.engine.snapshot import Manifest, Snapshot, SnapshotFile
from handler.fingerprint import system_fingerprint
from tests.test_params import INFO

FILES = (SnapshotFile("model.safetensors", 5, "a" * 64), SnapshotFile("config.json", 6, "b" * 64))
MANIFEST = Manifest(format_version=1, source="hub", name="m", files=FILES, created_at="2026-01-01T00:00:00+00:00")
SNAPSHOT = Snapshot(Path("/somewhere"), "m", MANIFEST)


def fingerprint(manifest: dict[str, Any] | None = None, **info: Any) -> str:
    changed = msgspec.structs.replace(SNAPSHOT, manifest=msgspec.structs.replace(MANIFEST, **(manifest or {})))
    return system_fingerprint(changed, msgspec.structs.replace(INFO, **info))


def test_it_looks_like_openais() -> None:
    assert len(fingerprint()) == 13
    assert fingerprint().startswith("fp_")
    assert int(fingerprint()[3:], 16) >= 0


def test_it_stays_with_what_computes_the_same() -> None:
    elsewhere = Snapshot(Path("/elsewhere"), "m", msgspec.structs.replace(MANIFEST, created_at="", files=FILES[::-1]))
    assert system_fingerprint(elsewhere, INFO) == fingerprint()
    assert fingerprint(device="cuda:0") == fingerprint(device="cuda:1")
    assert fingerprint(max_model_len=5, kv_cache_tokens=5) == fingerprint()


def test_it_changes_with_weights_precision_and_code(monkeypatch: pytest.MonkeyPatch) -> None:
    other_weights = (msgspec.structs.replace(FILES[0], sha256="c" * 64), FILES[1])
    found = [
        fingerprint(),
        fingerprint({"files": other_weights}),
        fingerprint({"format_version": 2}),
        fingerprint(dtype="bfloat16"),
        fingerprint(quantization="int8"),
        fingerprint(kv_cache_dtype="float16"),
        fingerprint(device="cuda:0"),
    ]
    monkeypatch.setattr(handler.fingerprint, "__version__", "9.9")
    found.append(fingerprint())
    assert len(set(found)) == len(found)
