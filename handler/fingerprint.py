"""What `system_fingerprint` says: equal for answers that the same weights, precision and code computed."""

from __future__ import annotations

import hashlib

import msgspec

from handler import __version__
from handler.engine.snapshot import Snapshot
from handler.engine.status import ModelInfo


def system_fingerprint(snapshot: Snapshot, info: ModelInfo) -> str:
    """`fp_` and ten hexadecimal digits. Where and when the model was prepared makes no difference."""
    files = sorted((file.name, file.sha256) for file in snapshot.manifest.files)
    device = info.device.partition(":")[0]
    precision = (info.dtype, info.quantization, info.kv_cache_dtype)
    parts = (__version__, snapshot.manifest.format_version, snapshot.name, files, device, precision)
    return f"fp_{hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:10]}"
