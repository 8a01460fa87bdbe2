"""Segments whose process is gone: found and locked in a worker thread, taken over by this process's spool on the loop.

Knows no database: whoever ships asks when it is time to look.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from handler.errors import SpoolError
from handler.requestlog.segment import SUFFIX, Segment
from handler.requestlog.spool import Spool

ORPHANS_AT_ONCE = 64
"""Each takes a descriptor, and each function that was killed while its database was away has left one."""

_log = logging.getLogger(__name__)


def find_orphans(directory: Path, most: int = ORPHANS_AT_ONCE) -> list[Segment]:
    """Lock and count the segments whose process is gone, oldest first, no more than `most`. May run in any thread.

    A segment that cannot be read stays where it is, with a warning.

    Raises:
        SpoolError: the directory cannot be read.
    """
    try:
        paths = sorted(directory.glob(f"*{SUFFIX}"))
    except OSError as error:
        raise SpoolError(f"cannot list {directory}: {error}") from error
    orphans: list[Segment] = []
    for path in paths:
        if len(orphans) == most:
            break
        try:
            segment = Segment.adopt(path)
        except SpoolError as error:
            _log.warning("spool segment not adopted: %s", error)
            continue
        if segment is not None:
            orphans.append(segment)
    return orphans


class Adoption:
    """Looks for what other processes left in the spool's directory: at the start, and from time to time.

    Attributes:
        has_looked: set once that was done, so that it is known what "everything" in the spool is.
        may_find_more: as many as may be held at once were found the last time: there may be more once they are shipped.
    """

    def __init__(self, spool: Spool, interval_s: float) -> None:
        self.has_looked = asyncio.Event()
        self.may_find_more = False
        self._spool = spool
        self._interval_s = interval_s
        self._due_s = 0.0

    @property
    def due_in_s(self) -> float:
        """Seconds until it is time to look again; 0 or less when it is."""
        return self._due_s - time.monotonic()

    async def look(self) -> None:
        """Take over what is there; where the directory cannot be read, what this process has spooled can be shipped."""
        self._due_s = time.monotonic() + self._interval_s
        self.may_find_more = False
        most = max(0, ORPHANS_AT_ONCE - self._spool.num_sealed)
        search = asyncio.create_task(asyncio.to_thread(find_orphans, self._spool.directory, most))
        try:
            try:
                orphans = await asyncio.shield(search)
            except asyncio.CancelledError:
                with contextlib.suppress(SpoolError):  # which would be taken for the end of a search like any other
                    self._spool.take_over(await search)  # the thread goes on: what it locks is given up with the rest
                raise
            self._spool.take_over(orphans)
            self.may_find_more = len(orphans) >= most
        except SpoolError as error:
            _log.warning("%s", error)
        self.has_looked.set()
