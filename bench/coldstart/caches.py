"""The page cache, emptied: what a machine's first start finds."""

from __future__ import annotations

import os
from pathlib import Path

from handler.errors import ConfigurationError

_DROP = Path("/proc/sys/vm/drop_caches")


def check_caches_can_be_dropped() -> None:
    """Say at once what would fail before the first start.

    Raises:
        ConfigurationError: the kernel lets only root do it, or is not Linux.
    """
    if not os.access(_DROP, os.W_OK):
        raise ConfigurationError(
            "bench coldstart --drop-caches", f"{_DROP} cannot be written: run it as root, on Linux"
        )


def drop_caches() -> None:
    """Write back what is dirty, and forget files and directories (proc_sys_vm(5))."""
    os.sync()
    _DROP.write_text("3\n", encoding="ascii")
