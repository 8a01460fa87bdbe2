from __future__ import annotations

import pytest

from handler.engine.events import FinishReason, TokenEvent
from handler.engine.listeners import Listeners

TOKEN, LAST = TokenEvent(token_ids=(5,)), TokenEvent(token_ids=(6,), finish_reason=FinishReason.LENGTH)


def test_events_reach_who_listens_up_to_the_last_one() -> None:
    listeners = Listeners()
    first: list[TokenEvent] = []
    second: list[TokenEvent] = []
    listeners.add(1, first.append)
    listeners.add(2, second.append)
    listeners.tell([(1, TOKEN), (2, TOKEN), (1, LAST)])
    listeners.tell([(1, TOKEN), (2, TOKEN), (3, TOKEN)])
    assert (first, second) == ([TOKEN, LAST], [TOKEN, TOKEN])
    assert len(listeners) == 1


def test_who_has_left_hears_nothing_any_more() -> None:
    listeners = Listeners()
    events: list[TokenEvent] = []
    listeners.add(1, events.append)
    listeners.drop(1)
    listeners.drop(1)
    listeners.tell([(1, TOKEN)])
    listeners.tell_all(LAST)
    assert not events
    assert not len(listeners)


def test_one_that_leaves_while_others_are_told_hears_nothing_any_more() -> None:
    listeners = Listeners()
    events: list[TokenEvent] = []
    listeners.add(1, lambda _: listeners.drop(2))
    listeners.add(2, events.append)
    listeners.tell_all(LAST)
    assert not events


def test_one_that_raises_keeps_no_event_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: TokenEvent) -> None:
        raise RuntimeError("a defect of one listener")

    listeners = Listeners()
    events: list[TokenEvent] = []
    listeners.add(1, fail)
    listeners.add(2, events.append)
    listeners.tell([(1, TOKEN), (2, TOKEN)])
    assert events == [TOKEN]
    listeners.tell_all(LAST)
    assert events == [TOKEN, LAST]
    assert not len(listeners)
    assert caplog.text.count("whoever listens to sequence 1 failed") == 2
    assert "a defect of one listener" in caplog.text
