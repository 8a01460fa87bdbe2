"""Which processors the harness itself runs on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def pinned(core: int) -> Iterator[None]:
    """Keep this thread on one processor, and what it starts meanwhile; whatever it starts later has its own again."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
