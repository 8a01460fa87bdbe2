from __future__ import annotations

from contextlib import ExitStack

import pytest

from handler.admission import Admission
from handler.errors import InvalidRequestError, OverloadedError, StartingError, StoppingError


def ready(max_batch_size: int = 2, max_queued: int = 1) -> Admission:
    admission = Admission(lambda: max_batch_size, max_queued)
    admission.is_ready = True
    return admission


def test_places_are_held_while_the_body_runs_however_it_ends() -> None:
    admission = ready()
    with admission.admit(2, "n"):
        assert admission.num_admitted == 2
    with pytest.raises(ZeroDivisionError), admission.admit(3, "n"):
        raise ZeroDivisionError
    assert admission.num_admitted == 0


def test_the_limit_is_batch_and_queue_together() -> None:
    admission = ready(2, 1)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.admit(1, "n"))
        with pytest.raises(OverloadedError) as caught, admission.admit(1, "n"):
            pass
        assert admission.num_admitted == 3
        assert caught.value.retry_after_s is not None
        assert caught.value.retry_after_s >= 1.0
    with admission.admit(3, "n"):
        pass


def test_several_sequences_enter_together_or_not_at_all() -> None:
    admission = ready(2, 1)
    with admission.admit(2, "n"), pytest.raises(OverloadedError), admission.admit(2, "n"):
        pass


@pytest.mark.parametrize("param", ["n", "prompt"])
def test_what_never_fits_is_the_requests_fault(param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught, ready(2, 1).admit(4, param):
        pass
    assert caught.value.param == param


def test_a_full_queue_before_the_boot_says_that_the_model_loads() -> None:
    admission = Admission(lambda: 1, 0)
    with admission.admit(1, "n"), pytest.raises(StartingError) as caught, admission.admit(1, "n"):
        pass
    assert caught.value.retry_after_s == 1.0


def test_stopping_refuses_everybody() -> None:
    admission = ready()
    admission.is_stopping = True
    with pytest.raises(StoppingError), admission.admit(1, "n"):
        pass


def test_the_time_to_come_back_follows_how_long_others_stayed(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr("handler.admission.time.monotonic", lambda: now_s)
    admission = ready(1, 0)
    with admission.admit(1, "n"):
        now_s += 20.0
    assert admission.retry_after_s() == 20.0
    with admission.admit(1, "n"):
        now_s += 10.0
    assert 10.0 < admission.retry_after_s() < 20.0
