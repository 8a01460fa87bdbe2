"""Segments that are only read any more, oldest first: this process's own when they were full, and adopted ones.

Knows neither records nor batches. Event loop only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence

from handler.errors import SpoolError
from handler.requestlog.segment import Segment

_log = logging.getLogger(__name__)


class SealedSegments:
    """What lies before the segment that is written to.

    Attributes:
        size_bytes: what they take on disk.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._segments: deque[Segment] = deque()

    def __len__(self) -> int:
        return len(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    @property
    def oldest(self) -> Segment | None:
        """What is to be read first."""
        return self._segments[0] if self._segments else None

    def add(self, segment: Segment) -> None:
        """Take in the newest."""
        self._segments.append(segment)
        self._measure()

    def insert(self, segments: Sequence[Segment]) -> None:
        """Take in others, in order of age."""
        self._segments = deque(sorted((*self._segments, *segments), key=lambda segment: segment.path.name))
        self._measure()

    def pop_oldest(self) -> Segment:
        """Give it up; it stays on disk."""
        segment = self._segments.popleft()
        self._measure()
        return segment

    def delete_finished(self) -> None:
        """Delete those at the front that have been read to their end and acknowledged."""
        while self._segments and self._segments[0].read_offset == self._segments[0].size_bytes:
            try:
                self._segments.popleft().delete()
            except SpoolError as error:  # mostly it is empty by now, and at worst its records are shipped once more
                _log.warning("%s", error)
        self._measure()

    def _measure(self) -> None:
        self.size_bytes = sum(segment.size_bytes for segment in self._segments)
