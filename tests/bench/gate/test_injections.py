from __future__ import annotations

from pathlib import Path

import pytest

import handler
from bench.gate.injections import END_TO_END, insert, micro_injections
from bench.gate.plan import PATHS

_SOURCE = '''
class Door:
    """A door."""

    def open(self):
        """Open it."""
        return calls

    async def close(self): return "closed"
'''


def test_a_statement_comes_first_in_the_function_it_is_put_into() -> None:
    changed = insert(_SOURCE, "Door.open", "calls.append(1)")
    scope: dict[str, list[int]] = {"calls": []}
    exec(changed, scope)
    assert eval("Door().open()", scope) == [1]
    with pytest.raises(ValueError, match=r"no Door\.lock"):
        insert(_SOURCE, "Door.lock", "pass")


@pytest.mark.parametrize("injection", [*END_TO_END, *micro_injections({})], ids=lambda each: each.name)
def test_each_injection_fits_the_function(injection: object) -> None:
    assert isinstance(injection, type(END_TO_END[0]))
    path = Path(handler.__file__).parent.parent / injection.file
    source = path.read_text(encoding="utf-8")
    changed = injection.apply(source, 12345)
    compile(changed, str(path), "exec")
    assert "12345" in changed
    assert changed.count("\n") == source.count("\n") + 1


def test_every_micro_path_has_one() -> None:
    assert [each.name for each in micro_injections({})] == list(PATHS)


def test_the_amount_follows_from_the_figure() -> None:
    by_name = {injection.name: injection for injection in (*END_TO_END, *micro_injections({"sse": 10}))}
    assert by_name["requests"].amount(100.0, 1e-8) == 1000  # 10 % of 100 us in turns of 10 ns
    assert by_name["events"].amount(10_000.0, 1e-8) == 1000
    assert by_name["cold start"].amount(1.0, 1e-8) == 10_000_000
    assert by_name["memory"].amount(1e9, 1e-8) == 100_000_000
    assert by_name["sse"].amount(100.0, 1e-8) == 50  # 5 %, in ten calls
