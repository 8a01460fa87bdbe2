"""Where chat templates run: jinja2's sandbox, with bounds on how long one may take and how much it may make.

A template is a program that comes with a model. The sandbox keeps it from the process, but lets it loop through loops
and double a text forty times. Knows no messages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor

MAX_TURNS = 2_000_000
"""Of loops in one rendering, for part of a second; a call counts as several. Conversations take thousands."""
_CALL_TURNS = 10
MAX_SIZE = 16 << 20
"""Characters of one text and elements of one list; four times what a request's body may have by default."""
_MAX_BITS = 4096

_BUDGET = "turns left"  # no name that a template could write
_COUNTED = "counted turns"
_WIDENING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "format"})


class TooMuchError(jinja2.TemplateRuntimeError):
    """The template goes beyond the bounds."""


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Loops and calls are counted, and what makes texts longer looks at their length."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters |= {name: _widening(self.filters[name]) for name in ("center", "indent")}
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
        text = getattr(function, "__self__", None)
        if isinstance(text, str):
            _check_method(text, function.__name__, args)
        return super().call(context, function, *args, **named)

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what can make much of little, unless it is too much."""
        if operator == "+":
            result = left + right
            if isinstance(result, Sized):
                _believed(len(result))
            return result
        if operator == "%" and isinstance(left, str):
            _check_widths(left)
        elif operator == "*":
            _check_product(left, right)
        elif operator == "**" and (abs(right) > _MAX_BITS or _bits(left) * abs(right) > _MAX_BITS):
            raise TooMuchError("a number is too large")
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
        _believed(size)
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


def _believed(size: Any) -> Any:
    """The size, or width, if a text can have it."""
    if isinstance(size, int) and size > MAX_SIZE:
        raise TooMuchError(f"the template makes more than {MAX_SIZE} characters")
    return size


def _widening(widen: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with a look at its width."""

    def bounded(text: Any, *args: Any, **named: Any) -> Any:
        for width in (*args, *named.values()):
            _believed(width)
        return widen(text, *args, **named)

    return bounded


def _joining(join: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with a look at how long its result will be."""

    @jinja2.pass_eval_context
    def bounded(context: jinja2.nodes.EvalContext, value: Iterable[Any], d: Any = "", attribute: Any = None) -> Any:
        items = list(value)
        _believed(len(items) * len(str(d)) + sum(len(item) for item in items if isinstance(item, str)))
        return join(context, items, d, attribute)

    return bounded


def _check_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    if name in _WIDENING:
        for number in args:
            _believed(number)
        if name == "format":
            _check_widths(text)
    elif name == "replace" and len(args) > 1:
        _believed((len(text) + 1) * len(str(args[1])))
    elif name == "join":
        _believed(len(text) * sum(len(items) for items in args if isinstance(items, Sized)))


def _check_widths(form: str) -> None:
    """Refuse a width or precision of many digits, or one that is an argument."""
    digits = 0
    for character in form:
        digits = digits + 1 if character.isdecimal() else 0
        if digits > 6 or character == "*":
            raise TooMuchError("a format asks for too wide a field")


def _check_product(left: Any, right: Any) -> None:
    for some, times in ((left, right), (right, left)):
        if isinstance(some, Sized) and isinstance(times, int):
            _believed(len(some) * times)
            return
    if _bits(left) + _bits(right) > _MAX_BITS:
        raise TooMuchError("a number is too large")


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 0
