from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits.aio.storage import memory

from handler.rate_limits.counters import Counters
from handler.rate_limits.window import Bucket, Window
from tests.rate_limits.clock import Clock

LIMIT = 20
STEPS = st.lists(st.tuples(st.floats(0, 90), st.integers(1, LIMIT)), max_size=12)


@given(steps=STEPS, overdraft=st.integers(0, 3 * LIMIT), amount=st.integers(1, LIMIT))
def test_what_a_window_says_is_what_the_storage_does(
    steps: list[tuple[float, int]], overdraft: int, amount: int
) -> None:
    """An amount fits when `wait_s` is over, and not before; `remaining` fits, and no more; `reset_s` forgets all."""

    async def check() -> None:
        clock, counters, bucket = Clock(), Counters(None), Bucket("alice", LIMIT)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "time", clock)
            for pause_s, taken in steps:
                clock.now_s += pause_s
                await counters.take(bucket, taken)
            await counters.add(bucket, overdraft)
            window = await counters.look(bucket)
            start_s, wait_s = clock.now_s, window.wait_s(amount)
            assert (wait_s == 0) == (amount <= window.remaining)
            assert not await counters.take(bucket, window.remaining + 1)
            if wait_s > 0.01:
                clock.now_s = start_s + wait_s - 0.01
                assert not await counters.take(bucket, amount)
            clock.now_s = start_s + window.reset_s + 0.001
            assert (await counters.look(bucket)).remaining == LIMIT
            clock.now_s = start_s + wait_s
            assert await counters.take(bucket, amount)

    asyncio.run(check())


def test_what_was_never_used_is_whole() -> None:
    window = Window(LIMIT, 60, 0, 0.0, 0, 0.0)
    assert (window.remaining, window.reset_s, window.wait_s(LIMIT)) == (LIMIT, 0.0, 0.0)


def test_an_overdraft_leaves_nothing_and_not_less() -> None:
    assert Window(LIMIT, 60, 0, 0.0, 10 * LIMIT, 90.0).remaining == 0


def test_what_two_processes_gave_back_at_once_is_no_credit() -> None:
    assert Window(LIMIT, 60, 0, 0.0, -5, 90.0).remaining == LIMIT
