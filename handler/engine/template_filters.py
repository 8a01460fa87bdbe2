"""jinja2's filters with a look at what they are given and at what they make. Any thread."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.runtime

from handler.engine.template_bounds import FILTER_CHECKS, TooMuchError, believed, bounded_text
from handler.engine.template_turns import pay_for

_MOST_PARTS = 100_000  # into which a list is cut; `range` makes no more either
_UNBOUNDED = frozenset({"urlize", "wordwrap", "xmlattr", "pprint"})  # that no chat template has a use for

Filter = Callable[..., Any]


def bounded_filters(filters: Mapping[str, Filter]) -> dict[str, Filter]:
    """All of them within bounds, without those that cannot be."""
    bounded = {name: compute for name, compute in filters.items() if name not in _UNBOUNDED}
    bounded["center"] = _widening(bounded["center"])
    bounded |= {name: _cutting(bounded[name]) for name in ("batch", "slice", "round")}
    bounded |= {name: _checked(bounded[name], check) for name, check in FILTER_CHECKS.items()}
    bounded["join"] = _joining(bounded["join"])
    return {name: paid(compute) for name, compute in bounded.items()}


def paid(compute: Filter) -> Filter:
    """The filter with a look at what it made."""
    given = getattr(compute, "jinja_pass_arg", None)

    @jinja2.pass_context
    @functools.wraps(compute)
    def computed(context: jinja2.runtime.Context, *args: Any, **named: Any) -> Any:
        if given is not None:
            first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
            args = (first[given.name], *args)
        return pay_for(context, compute(*args, **named))

    return computed


def _widening(widen: Filter) -> Filter:
    """The filter with a look at its width."""

    def bounded(text: Any, *args: Any, **named: Any) -> Any:
        for width in (*args, *named.values()):
            believed(width)
        return widen(text, *args, **named)

    return bounded


def _joining(join: Filter) -> Filter:
    """The filter with a look at how long its result will be."""

    @jinja2.pass_eval_context
    def bounded(context: jinja2.nodes.EvalContext, value: Iterable[Any], d: Any = "", attribute: Any = None) -> Any:
        items = list(value)
        bounded_text(items)
        believed(len(items) * len(str(d)) + sum(len(item) for item in items if isinstance(item, str)))
        return join(context, items, d, attribute)

    return bounded


def _checked(compute: Filter, check: Callable[..., None]) -> Filter:
    """The filter with a look at its input, behind what jinja2 hands to it first."""
    num_given = 1 if hasattr(compute, "jinja_pass_arg") else 0

    @functools.wraps(compute)
    def bounded(*args: Any, **named: Any) -> Any:
        check(*args[num_given:], *named.values())
        return compute(*args, **named)

    return bounded


def _cutting(cut: Filter) -> Filter:
    """The filter with a look at its numbers."""

    def bounded(value: Any, *args: Any, **named: Any) -> Any:
        if any(isinstance(number, int) and number > _MOST_PARTS for number in (*args, *named.values())):
            raise TooMuchError(f"a list is cut into more than {_MOST_PARTS} parts")
        return cut(value, *args, **named)

    return bounded
