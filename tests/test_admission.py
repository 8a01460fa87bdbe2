from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from handler.admission import Admission, Limits
from handler.demand import Demand, Expectations
from handler.errors import InvalidRequestError, OverloadedError, StartingError, StoppingError, UnavailableError
from handler.occupancy import Stay

LARGE = 1 << 20


class Clock:
    """`time.monotonic` as the test wants it."""

    now_s = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("handler.admission.time.monotonic", lambda: clock.now_s)
    return clock


def ready(places: int = 2, sequences: int = 1, tokens: int = 1 << 30, wait_s: float = 1e9) -> Admission:
    admission = Admission(lambda: places, lambda: places, Limits(sequences, tokens, wait_s), Expectations(None))
    admission.is_ready = True
    return admission


def wants(
    completions: int = 1, *, prompt_tokens: int = 0, max_tokens: int = 10, priority: int = 0, param: str = "n"
) -> Demand:
    return Demand(
        completions=completions, param=param, prompt_tokens=prompt_tokens, max_tokens=max_tokens, priority=priority
    )


def enter(stack: ExitStack, admission: Admission, demand: Demand | None = None) -> Stay:
    return stack.enter_context(admission.admit(demand or wants(), 100))


def begin(stack: ExitStack, admission: Admission, count: int) -> None:
    """Fill that many places with sequences that run."""
    for _ in range(count):
        enter(stack, admission).note_start(None)


def serve(admission: Admission, clock: Clock, *, tokens: int = 10, seconds: float = 1.0, count: int = 1) -> None:
    """Let sequences that come to that many tokens run one after the other."""
    for _ in range(count):
        with admission.admit(wants(max_tokens=tokens), 100) as stay:
            stay.note_start(clock.now_s)
            clock.now_s += seconds
            stay.note_end(tokens, by_itself=True)


@contextmanager
def refused(kind: type[UnavailableError] = OverloadedError) -> Iterator[pytest.ExceptionInfo[UnavailableError]]:
    with pytest.raises(kind) as caught:
        yield caught


def test_the_limit_is_batch_and_queue_together() -> None:
    admission = ready(2, 1)
    with ExitStack() as stack:
        for _ in range(3):
            enter(stack, admission)
        with refused():
            admission.admit(wants(), 0)
        assert admission.occupancy.num_admitted == 3
    with admission.admit(wants(3), 0):
        pass


def test_several_sequences_enter_together_or_not_at_all() -> None:
    admission = ready(2, 1)
    with admission.admit(wants(2), 0), refused():
        admission.admit(wants(2), 0)


@pytest.mark.parametrize("param", ["n", "prompt"])
def test_what_never_fits_is_the_requests_fault(param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ready(2, 1).admit(wants(4, param=param), 0)
    assert caught.value.param == param


def test_the_tokens_that_wait_are_bounded() -> None:
    admission = ready(1, 100, tokens=100)
    with ExitStack() as stack:
        begin(stack, admission, 1)
        for _ in range(5):
            enter(stack, admission, wants(prompt_tokens=10))
        assert admission.occupancy.waiting_tokens == 100
        with refused() as caught:
            admission.admit(wants(prompt_tokens=1, max_tokens=0), 100)
        assert "room" in str(caught.value)


def test_an_estimate_gives_way_to_the_true_number() -> None:
    admission = ready(1, 100, tokens=1000)
    text = Demand(param="n", max_tokens=10)
    with ExitStack() as stack:
        begin(stack, admission, 1)
        stay = stack.enter_context(admission.admit(text, 8000))
        assert admission.occupancy.waiting_tokens == 8000 // 4 + 10
        with refused():
            admission.admit(wants(), 100)
        stay.note_prompt(300)  # a language of many bytes a token
        assert admission.occupancy.waiting_tokens == 300 + 10
        enter(stack, admission)
    assert admission.occupancy.waiting_tokens == 0


def test_what_exceeds_the_bound_alone_is_let_in_where_nobody_waits() -> None:
    admission = ready(2, 100, tokens=50)
    huge = wants(prompt_tokens=1000)
    with ExitStack() as stack:
        begin(stack, admission, 1)
        enter(stack, admission, huge)  # a place is free
        with admission.admit(huge, 0):  # the place before it is not its own yet, but nobody else's
            with refused():
                admission.admit(huge, 0)
            with refused():
                admission.admit(wants(), 0)


def test_who_would_wait_too_long_is_refused_and_told_when_to_come_back(clock: Clock) -> None:
    admission = ready(2, 1000, wait_s=30.0)
    serve(admission, clock, tokens=10, seconds=1.0)  # 10 tokens a second and place
    with ExitStack() as stack:
        begin(stack, admission, 2)
        for number in range(40):
            assert admission.expected_wait_s() == pytest.approx((number + 1) / 2)  # two places, a second each
            enter(stack, admission)
        assert admission.expected_wait_s() == pytest.approx(20.5)
        with refused() as caught:
            admission.admit(wants(), 100)
        assert caught.value.retry_after_s == pytest.approx(20.5)
        assert "about 20 s" in str(caught.value)


def test_the_urgent_wait_for_those_only_that_go_before_them(clock: Clock) -> None:
    admission = ready(1, 1000, wait_s=3.0)
    serve(admission, clock)
    with ExitStack() as stack:
        begin(stack, admission, 1)
        for _ in range(2):
            enter(stack, admission)
        with refused():
            admission.admit(wants(), 100)
        with refused():
            admission.admit(wants(priority=1), 100)
        for number in range(2):
            assert admission.expected_wait_s(-1) == pytest.approx(number + 1)
            enter(stack, admission, wants(priority=-1))
        with refused():
            admission.admit(wants(priority=-1), 100)
        assert admission.occupancy.num_admitted == 5  # nobody had to leave


@pytest.mark.parametrize(
    ("priority", "seconds"), [(None, 6), (7, 6), (5, 6), (4, 4), (0, 4), (-1, 3), (-3, 3), (-4, 1)]
)
def test_what_is_less_urgent_is_not_waited_for(priority: int | None, seconds: int, clock: Clock) -> None:
    admission = ready(1, 1000)
    serve(admission, clock)
    with ExitStack() as stack:
        begin(stack, admission, 1)
        for level in (5, 5, 0, -3, -3):
            enter(stack, admission, wants(priority=level))
        assert admission.expected_wait_s(priority) == pytest.approx(seconds)


def test_the_urgent_are_refused_where_there_is_no_room_at_all(clock: Clock) -> None:
    admission = ready(1, 2)
    serve(admission, clock)
    with ExitStack() as stack:
        for _ in range(3):
            enter(stack, admission)
        with refused():
            admission.admit(wants(priority=-100), 100)


def test_short_of_memory_fewer_run_and_all_wait_longer(clock: Clock) -> None:
    running = 4
    admission = Admission(lambda: 4, lambda: running, Limits(100, 1 << 30, 1e9), Expectations(None))
    serve(admission, clock)
    with ExitStack() as stack:
        for _ in range(8):
            enter(stack, admission)
        assert admission.expected_wait_s() == pytest.approx(9 / 4)
        running = 2
        assert admission.expected_wait_s() == pytest.approx(9 / 2)


def test_a_head_is_refused_only_where_its_body_would_change_nothing(clock: Clock) -> None:
    admission = ready(1, 4, wait_s=3.0)
    serve(admission, clock)
    with ExitStack() as stack:
        begin(stack, admission, 1)
        for _ in range(2):
            enter(stack, admission)
        assert not admission.is_contended  # nobody had to be refused yet
        with refused():
            admission.admit(wants(), 100)
        assert admission.is_contended
        admission.check_head(100)  # it may be urgent
        admission.check_head(None)
        with refused():
            admission.check_head(LARGE)
        for _ in range(2):
            enter(stack, admission, wants(priority=-1))
        with refused():  # no place is left for anybody
            admission.check_head(100)
    admission.check_head(LARGE)
    assert not admission.is_contended
    admission.is_stopping = True
    assert admission.is_contended
    with refused(StoppingError):
        admission.check_head(100)


def test_all_places_taken_and_no_queue_refuses_on_the_head() -> None:
    admission = ready(1, 0)
    with ExitStack() as stack:
        begin(stack, admission, 1)
        assert admission.is_contended
        with refused():
            admission.check_head(100)


def test_a_full_queue_before_the_boot_says_that_the_model_loads(clock: Clock) -> None:
    admission = Admission(lambda: 1, lambda: 1, Limits(0, 1000, 30.0), Expectations(None))
    with admission.admit(wants(), 0):
        with refused(StartingError) as caught:
            admission.admit(wants(), 0)
        assert caught.value.retry_after_s == 1.0
        clock.now_s += 7.0  # whoever came first has waited for so long, and nobody knows how much of it is over
        with refused(StartingError) as caught:
            admission.admit(wants(), 0)
        assert caught.value.retry_after_s == 7.0


def test_stopping_refuses_everybody() -> None:
    admission = ready()
    admission.is_stopping = True
    with refused(StoppingError):
        admission.admit(wants(), 0)


def test_who_never_began_tells_nothing_of_the_rate(clock: Clock) -> None:
    admission = ready()
    with admission.admit(wants(), 0) as stay:
        clock.now_s += 5.0
        stay.note_end(0, by_itself=False)
    assert admission.expected_wait_s() is None


def test_only_completions_that_ended_by_themselves_tell_how_long_others_will_be(clock: Clock) -> None:
    admission = ready()
    for tokens, by_itself in ((3, False), (8, True)):
        with admission.admit(wants(), 0) as stay:
            stay.note_start(clock.now_s)
            stay.note_end(tokens, by_itself=by_itself)
    with admission.admit(wants(), 0):
        assert admission.occupancy.waiting_tokens == 8
