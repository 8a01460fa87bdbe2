"""What a rendering may spend: turns, which loops, calls and large results cost. Any thread, one rendering each.

The turns that are left lie in the template's own context, under a name that no template can write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from typing import Any

import jinja2
import jinja2.runtime

from handler.engine.template_bounds import TooMuchError, believed

MAX_TURNS = 2_000_000
"""Of loops in one rendering, for part of a second; a call counts as several. Conversations take thousands."""
_ELEMENTS_PER_TURN = 256
"""Characters or elements that are made at the price of one turn: half a gigabyte by one rendering, of which most go."""
_BUDGET = "turns left"


def budget() -> dict[str, Any]:
    """A variable for one rendering that holds all its turns."""
    return {_BUDGET: [MAX_TURNS]}


@jinja2.pass_context
def counted(context: jinja2.runtime.Context, items: Iterable[Any]) -> Iterable[Any]:
    """What a loop goes through: its turns are paid at once where their number is known."""
    if isinstance(items, Sized):
        spend(context, len(items))
        return items
    if isinstance(items, jinja2.Undefined):
        return items
    return _paying(context, items)


def _paying(context: jinja2.runtime.Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        spend(context, 1)
        yield item


def spend(context: jinja2.runtime.Context, turns: int) -> None:
    """Take turns from what is left.

    Raises:
        TooMuchError: there are not so many.
    """
    left = context.parent.get(_BUDGET)
    if left is None:  # while a template's module is made
        return
    left[0] -= turns
    if left[0] < 0:
        raise TooMuchError(f"the template takes more than {MAX_TURNS} turns")


def pay_for(context: jinja2.runtime.Context, result: Any) -> Any:
    """What was made, if it is not too much; much of it costs turns, for it may all be kept."""
    if isinstance(result, Sized):
        size = believed(len(result))
        if size >= _ELEMENTS_PER_TURN:
            spend(context, size // _ELEMENTS_PER_TURN)
    return result
