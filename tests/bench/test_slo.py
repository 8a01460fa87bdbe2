from __future__ import annotations

import msgspec
import pytest

from bench.errors import BenchError
from bench.slo import Objective, meets, parse_objectives
from tests.bench.test_record import RECORD


def test_names_and_units() -> None:
    assert parse_objectives("ttft:200ms, tpot:50.5ms,e2e:5s,itl:1s") == (
        Objective(name="ttft", limit_s=0.2),
        Objective(name="tpot", limit_s=0.0505),
        Objective(name="e2e", limit_s=5.0),
        Objective(name="itl", limit_s=1.0),
    )
    assert parse_objectives("") == ()


@pytest.mark.parametrize(("text", "message"), [
    ("speed:1s", "slo: 'speed' is none of ttft, tpot, itl, e2e"),
    ("ttft:200", "slo: ttft needs a time in ms or s"),
    ("ttft:-1s", "slo: ttft needs a time"),
    ("ttft", "slo: ttft needs a time"),
    ("ttft:1s,ttft:2s", "slo: ttft comes twice"),
])  # fmt: skip
def test_what_cannot_be_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(BenchError, match=message):
        parse_objectives(text)


@pytest.mark.parametrize(("text", "is_met"), [
    ("", True),
    ("ttft:1s", True),
    ("ttft:999ms", False),
    ("tpot:250ms", True),
    ("tpot:249ms", False),
    ("itl:750ms", True),
    ("itl:749ms", False),
    ("e2e:2500ms", True),
    ("e2e:2.4s", False),
    ("ttft:1s,e2e:1s", False),
])  # fmt: skip
def test_every_objective_has_to_be_met(text: str, is_met: bool) -> None:
    assert meets(RECORD, parse_objectives(text)) is is_met


def test_a_failure_is_a_miss_however_quick() -> None:
    failed = msgspec.structs.replace(RECORD, failure="refused", error="status 429")
    assert not meets(failed, ())
    assert not meets(failed, parse_objectives("e2e:1000s"))


def test_what_an_answer_does_not_have_is_a_miss() -> None:
    silent = msgspec.structs.replace(RECORD, token_times_s=())
    assert [meets(silent, parse_objectives(f"{name}:9s")) for name in ("ttft", "tpot", "itl", "e2e")] == [
        False, False, False, True,
    ]  # fmt: skip
    single = msgspec.structs.replace(RECORD, token_times_s=(2.0,), completion_tokens=1)
    assert meets(single, parse_objectives("tpot:1ms,itl:1ms"))
