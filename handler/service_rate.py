"""How fast requests are served, from those that have been. Event loop only.

A sequence that came to w tokens held a place of the batch for s seconds. The tokens per second of one place, times the
places that are taken, are what all get through together (Little's law), however busy the engine was when they were
measured. With few others beside it a sequence is faster, though: a server that was nearly idle promises too much until
the first sequences of a full batch have ended.
"""

from __future__ import annotations

_MEMORY_SEQUENCES = 32
"""As many later sequences reduce the weight of one to 1/e."""


class ServiceRate:
    """Sums over sequences, in which recent ones count more."""

    def __init__(self) -> None:
        self._sequences = 0.0
        self._tokens = 0.0
        self._place_s = 0.0

    def learn(self, sequences: int, tokens: int, duration_s: float) -> None:
        """Take in a request: sequences that held their places for so long, and came to so many tokens together."""
        kept = 1.0 - sequences / _MEMORY_SEQUENCES if sequences < _MEMORY_SEQUENCES else 0.0
        self._sequences = self._sequences * kept + sequences
        self._tokens = self._tokens * kept + tokens
        self._place_s = self._place_s * kept + sequences * duration_s

    def duration_s(self, tokens: int, places: int) -> float | None:
        """Until that many tokens, and those of one sequence more, have been served on so many places.

        None: nothing has been served yet.
        """
        if not self._tokens:
            return None
        return (tokens + self._tokens / self._sequences) * self._place_s / (self._tokens * places)
