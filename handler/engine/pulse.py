"""Signs of life of the engine's thread, and for how long somebody who watches has seen none. Knows no engine."""

from __future__ import annotations

import time


class Pulse:
    """The engine thread beats and rests; one other thread, always the same, watches.

    Attributes:
        beat_s: `time.monotonic()` of the last sign of life.
        is_resting: whether the thread has nothing to do, which is no silence.
    """

    def __init__(self) -> None:
        self.beat_s = time.monotonic()
        self.is_resting = False
        self._seen_s: float | None = None
        self._silence_s = 0.0

    def beat(self) -> None:
        """The thread is alive."""
        self.beat_s = time.monotonic()

    def silence_s(self, elapsed_s: float) -> float:
        """Seconds that were watched without a beat; `elapsed_s` is what the last look was ago, as far as it counts."""
        if self.beat_s != self._seen_s or self.is_resting:
            self._seen_s, self._silence_s = self.beat_s, 0.0
        else:
            self._silence_s += elapsed_s
        return self._silence_s
