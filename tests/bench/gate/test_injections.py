from __future__ import annotations

from pathlib import Path

import pytest

import handler
from bench.gate.injections import END_TO_END, MICRO, insert
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


@pytest.mark.parametrize("injection", [*END_TO_END, *MICRO], ids=lambda each: each.name)
def test_each_injection_fits_the_function(injection: object) -> None:
    assert isinstance(injection, type(END_TO_END[0]))
    path = Path(handler.__file__).parent.parent / injection.file
    source = path.read_text(encoding="utf-8")
    changed = injection.apply(source, 12345)
    compile(changed, str(path), "exec")
    assert "12345" in changed or changed.count("_ = 0") >= 12345
    assert changed.count("\n") == source.count("\n") + 1


def test_every_micro_path_has_one() -> None:
    assert [each.name for each in MICRO] == list(PATHS)
