from __future__ import annotations

from bench.baselines.plan import STACKS
from bench.compare.calibration import sized
from bench.compare.plan import quick_plan

SIZES = quick_plan(STACKS, 3, 0, 1, 0).model_loops


def test_a_fast_machine_is_asked_for_more_in_the_same_time() -> None:
    found = sized(SIZES, chats_per_s=41.234, chat_s=0.05)
    assert found.rates_per_s == (21.0,)
    assert (found.seconds, found.timeout_s) == (SIZES.seconds, SIZES.timeout_s)


def test_a_slow_machine_gets_time_for_a_few_chats() -> None:
    found = sized(SIZES, chats_per_s=0.4, chat_s=5.0)
    assert found.rates_per_s == (0.2,)
    assert (found.seconds, found.timeout_s) == (15.0, 25.0)
