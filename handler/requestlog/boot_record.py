"""One row of table `boots`: how one instance started. Knows no spool, no SQL, no asyncio."""

from __future__ import annotations

import datetime as dt
import uuid

import msgspec

from handler.boot import Phase


class BootRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="kind", tag="boot"):
    """One boot, in the columns of table `boots`. What did not happen, or is not known here, is None.

    Attributes:
        id: version 7, made by `record.new_id`.
        instance_id: that of the requests which this instance answered.
        started_at: when the kernel started the process, with a time zone.
        version: of the function.
        model_name: as `/v1/models` shows it.
        image: the setting of that name.
        devices: that it booted on.
        ready_s: seconds from then until a token could be served; None where the boot failed.
        error: why it failed.
        is_cold: whether the disk gave more than half as much as the weights have; None where the kernel does not tell.
        read_bytes: that the disk had to give until then, for whatever purpose; likewise.
        phases: in the order they began, in seconds since the start.
    """

    id: uuid.UUID
    instance_id: str
    started_at: dt.datetime
    version: str
    model_name: str
    image: str | None = None
    devices: list[str] = []
    ready_s: float | None = None
    error: str | None = None
    is_cold: bool | None = None
    read_bytes: int | None = None
    phases: list[Phase] = []


KIND = b'"kind":"boot"'
"""Is in each line that the spool holds for a boot, and may be in others."""

BOOT_COLUMNS: tuple[str, ...] = BootRecord.__struct_fields__
