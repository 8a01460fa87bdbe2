"""What a boot leaves behind: one record of how this instance started, once it has, well or not. Event loop only."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

from handler import __version__
from handler.engine.snapshot import QUANTISED_FILE, Snapshot
from handler.requestlog.boot_record import BootRecord
from handler.requestlog.record import new_id
from handler.service import Service

_COLD_SHARE = 0.5
"""Of the weights' size: a disk that had to give more than this, for whatever purpose, gave what a warm one need not."""


def boot_record(service: Service, instance_id: str) -> BootRecord:
    """How the boot of a service went that has just ended."""
    timeline, engine = service.timeline, service.engine
    read_bytes = disk_read_bytes()
    weights_bytes = _weights_bytes(engine.snapshot, None if engine.model is None else engine.model.info.quantization)
    started_s = time.time() - timeline.elapsed_s()
    return BootRecord(
        id=new_id(),
        instance_id=instance_id,
        started_at=dt.datetime.fromtimestamp(started_s, dt.UTC),
        version=__version__,
        model_name=engine.snapshot.name,
        image=service.settings.image,
        devices=[device.device for device in engine.devices],
        ready_s=timeline.ready_s,
        error=None if service.boot_error is None else str(service.boot_error),
        is_cold=None if read_bytes is None or not weights_bytes else read_bytes > _COLD_SHARE * weights_bytes,
        read_bytes=read_bytes,
        phases=timeline.phases,
    )


def disk_read_bytes() -> int | None:
    """What this process has made the disk give so far, mapped files included; None where the kernel does not tell.

    proc_pid_io(5), read_bytes: what was in memory already is not counted.
    """
    try:
        lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    counts = dict(line.split(": ") for line in lines)
    return int(counts["read_bytes"]) if "read_bytes" in counts else None


def _weights_bytes(snapshot: Snapshot, quantization: str | None) -> int:
    """Of the form that was loaded, where the snapshot has two."""
    sizes = {file.name: file.size_bytes for file in snapshot.manifest.files if file.name.endswith(".safetensors")}
    quantised_bytes = sizes.pop(QUANTISED_FILE, None)
    return quantised_bytes if quantised_bytes is not None and quantization == "int8" else sum(sizes.values())
