"""Where chat templates run: jinja2's sandbox, with bounds on how long one may take and how much it may make.

A template is a program that comes with a model. The sandbox keeps it from the process, but lets it loop through loops
and double a text forty times. Owns the turns, and the places where sizes are looked at; which of them are too much is
said in `template_bounds.py`. Any thread, one rendering each. Knows no messages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor

from handler.engine.template_bounds import (
    FILTER_CHECKS,
    TooMuchError,
    believed,
    bounded_text,
    check_method,
    check_power,
    check_product,
    check_widths,
)

MAX_TURNS = 2_000_000
"""Of loops in one rendering, for part of a second; a call counts as several. Conversations take thousands."""
_CALL_TURNS = 10
_BUDGET = "turns left"  # no name that a template could write
_COUNTED = "counted turns"
_MOST_PARTS = 100_000  # into which a list is cut; `range` makes no more either
_UNBOUNDED = ("urlize", "wordwrap", "xmlattr", "pprint")  # filters that no chat template has a use for


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Loops and calls are counted, and what makes texts longer looks at their length."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["center"] = _widening(self.filters["center"])
        self.filters |= {name: _cutting(self.filters[name]) for name in ("batch", "slice", "round")}
        self.filters |= {name: _checked(self.filters[name], check) for name, check in FILTER_CHECKS.items()}
        for name in _UNBOUNDED:
            del self.filters[name]
        del self.globals["lipsum"]
        self.finalize = bounded_text
        self.filters["join"] = _joining(self.filters["join"])
        self.filters[_COUNTED] = _counted

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(jinja2.nodes.For):
            loop.iter = _filtered(loop.iter, _COUNTED)
        joined: jinja2.nodes.Template = _Joins().visit(template)
        return joined

    def call(self, context: jinja2.runtime.Context, function: Any, *args: Any, **named: Any) -> Any:
        """Call what a template calls, which costs some turns."""
        _spend(context, _CALL_TURNS)
        owner = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        if isinstance(owner, str | bytes | int):
            check_method(owner, name, (*args, *named.values()))
        return super().call(context, function, *args, **named)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what can make much of little, unless it is too much."""
        if operator == "+":
            result = left + right
            if isinstance(result, Sized):
                believed(len(result))
            return result
        if operator == "%" and isinstance(left, str):
            check_widths(left)
            bounded_text(right)
        elif operator == "*":
            check_product(left, right)
        elif operator == "**":
            check_power(left, right)
        return super().call_binop(context, operator, left, right)


class _Joins(jinja2.visitor.NodeTransformer):
    """Writes `a ~ b` as `[a, b] | join`, which is the same."""

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:  # noqa: N802  (jinja2 names it)
        self.generic_visit(node)
        parts = jinja2.nodes.List(node.nodes, lineno=node.lineno, environment=node.environment)
        return _filtered(parts, "join")


def render_bounded(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """The template's text.

    Raises:
        TooMuchError: it takes too long, or becomes too long.
        Exception: whatever the template raises.
    """
    parts: list[str] = []
    size = 0
    for part in template.generate({**variables, _BUDGET: [MAX_TURNS]}):
        parts.append(part)
        size += len(part)
        believed(size)
    return "".join(parts)


def _filtered(node: jinja2.nodes.Node, name: str) -> jinja2.nodes.Filter:
    value = cast("jinja2.nodes.Expr", node)
    return jinja2.nodes.Filter(value, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


@jinja2.pass_context
def _counted(context: jinja2.runtime.Context, items: Iterable[Any]) -> Iterable[Any]:
    """What a loop goes through: its turns are paid at once where their number is known."""
    if isinstance(items, Sized):
        _spend(context, len(items))
        return items
    if isinstance(items, jinja2.Undefined):
        return items
    return _paying(context, items)


def _paying(context: jinja2.runtime.Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend(context, 1)
        yield item


def _spend(context: jinja2.runtime.Context, turns: int) -> None:
    budget = context.parent.get(_BUDGET)
    if budget is None:  # while a template's module is made
        return
    budget[0] -= turns
    if budget[0] < 0:
        raise TooMuchError(f"the template takes more than {MAX_TURNS} turns")


def _widening(widen: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with a look at its width."""

    def bounded(text: Any, *args: Any, **named: Any) -> Any:
        for width in (*args, *named.values()):
            believed(width)
        return widen(text, *args, **named)

    return bounded


def _joining(join: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with a look at how long its result will be."""

    @jinja2.pass_eval_context
    def bounded(context: jinja2.nodes.EvalContext, value: Iterable[Any], d: Any = "", attribute: Any = None) -> Any:
        items = list(value)
        bounded_text(items)
        believed(len(items) * len(str(d)) + sum(len(item) for item in items if isinstance(item, str)))
        return join(context, items, d, attribute)

    return bounded


def _checked(compute: Callable[..., Any], check: Callable[..., None]) -> Callable[..., Any]:
    """The filter with a look at its input, behind what jinja2 hands to it first."""
    num_given = 1 if hasattr(compute, "jinja_pass_arg") else 0

    @functools.wraps(compute)
    def bounded(*args: Any, **named: Any) -> Any:
        check(*args[num_given:], *named.values())
        return compute(*args, **named)

    return bounded


def _cutting(cut: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with a look at its numbers."""

    def bounded(value: Any, *args: Any, **named: Any) -> Any:
        if any(isinstance(number, int) and number > _MOST_PARTS for number in (*args, *named.values())):
            raise TooMuchError(f"a list is cut into more than {_MOST_PARTS} parts")
        return cut(value, *args, **named)

    return bounded
