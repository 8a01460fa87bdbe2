"""Who wants to hear of which sequence, and how it is told: events leave the engine thread through `post`.

Known on the consumer's side, so that all can be told when the thread hangs. Knows no steps, and no reason for failures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from handler.engine.events import OnEvent, TokenEvent
from handler.errors import PilotlightError

logger = logging.getLogger(__name__)

Post = Callable[[Callable[[], None]], object]
OnBoot = Callable[[PilotlightError | None], None]


class Handle:
    """A submitted sequence. `cancel` may be called from any thread, at any time, more than once."""

    __slots__ = ("_cancel", "sequence_id")

    def __init__(self, sequence_id: int, cancel: Callable[[int], None]) -> None:
        self.sequence_id = sequence_id
        self._cancel = cancel

    def cancel(self) -> None:
        """Stop generating and free the sequence's blocks before the next step; the current one may still yield."""
        self._cancel(self.sequence_id)


class Listeners:
    """Those who have not heard their last event. Any thread adds and drops; only the consumer's tells.

    One that raises is a defect of its own: it is logged, and costs nobody else an event.
    """

    def __init__(self) -> None:
        self._listeners: dict[int, OnEvent] = {}  # each taken out at once by whoever tells it the last event

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, sequence_id: int, on_event: OnEvent) -> None:
        """Have `on_event` hear of a sequence, up to the event with a finish reason."""
        self._listeners[sequence_id] = on_event

    def drop(self, sequence_id: int) -> None:
        """Tell nobody of a sequence any more; one that has ended is no error."""
        self._listeners.pop(sequence_id, None)

    def tell(self, deliveries: list[tuple[int, TokenEvent]]) -> None:
        """Hand events to whoever listens. Who has cancelled hears nothing any more."""
        listeners = self._listeners
        for sequence_id, event in deliveries:
            listener = listeners.get(sequence_id) if event.finish_reason is None else listeners.pop(sequence_id, None)
            if listener is not None:
                try:
                    listener(event)
                except Exception:
                    logger.exception("whoever listens to sequence %d failed", sequence_id)

    def tell_all(self, last: TokenEvent) -> None:
        """Hand their last event to all who still wait."""
        self.tell([(sequence_id, last) for sequence_id in list(self._listeners)])
