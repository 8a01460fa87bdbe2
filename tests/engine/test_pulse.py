from __future__ import annotations

from handler.engine.pulse import Pulse


def test_silence_is_what_was_watched_since_the_last_beat() -> None:
    pulse = Pulse()
    assert pulse.silence_s(100.0) == 0.0, "the first look only notes where the thread is"
    assert pulse.silence_s(0.5) == 0.5
    assert pulse.silence_s(0.25) == 0.75
    pulse.beat()
    assert pulse.silence_s(9.0) == 0.0
    assert pulse.silence_s(0.5) == 0.5


def test_rest_is_no_silence() -> None:
    pulse = Pulse()
    pulse.silence_s(1.0)
    pulse.is_resting = True
    assert pulse.silence_s(50.0) == pulse.silence_s(50.0) == 0.0
    pulse.is_resting = False
    assert pulse.silence_s(0.5) == 0.5
