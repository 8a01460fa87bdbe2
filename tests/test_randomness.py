from __future__ import annotations

import asyncio
import os

import pytest

from handler.randomness import DIGITS, Randomness
from tests.connection import turn_until


async def test_nobody_has_what_another_has() -> None:
    randomness = Randomness()
    taken = [randomness.take() for _ in range(1000)]
    assert {len(each) for each in taken} == {DIGITS}
    parts = {each[start : start + 12] for each in taken for start in range(0, DIGITS, 12)}
    assert len(parts) == 4 * len(taken)
    assert all(set(each) <= set("0123456789abcdef") for each in taken)


async def test_many_ask_the_kernel_seldom_and_one_alone_for_no_more_than_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    urandom = os.urandom

    def counted(num_bytes: int) -> bytes:
        asked.append(num_bytes)
        return urandom(num_bytes)

    monkeypatch.setattr(os, "urandom", counted)
    randomness = Randomness()
    randomness.take()
    assert asked == [DIGITS // 2]
    for _ in range(10_000):
        randomness.take()
    assert len(asked) < 60
    assert max(asked) == 256 * DIGITS // 2


async def test_a_process_that_idles_has_none_left() -> None:
    randomness = Randomness(kept_s=0)
    for _ in range(2):
        for _ in range(6):
            randomness.take()
        assert randomness.num_left == 1  # of one, two and four
        await turn_until(lambda: randomness.num_left == 0)


async def test_what_is_left_is_kept_while_requests_come() -> None:
    randomness = Randomness(kept_s=0)
    for _ in range(100):
        randomness.take()
        left = randomness.num_left
        await asyncio.sleep(0)
        assert randomness.num_left == left
