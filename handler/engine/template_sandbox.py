"""Where chat templates run: jinja2's sandbox, with bounds on how long one may take and how much it may make.

A template is a program that comes with a model. The sandbox keeps it from the process, but lets it loop through loops
and double a text forty times. Owns the turns, and the places where sizes are looked at; which of them are too much is
said in `template_bounds.py`. Any thread, one rendering each. Knows no messages.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor
from markupsafe import Markup

from handler.engine.template_bounds import (
    FILTER_CHECKS,
    TooMuchError,
    believed,
    bounded_text,
    check_method,
    check_percents,
    check_power,
    check_product,
    check_widths,
)

MAX_TURNS = 2_000_000
"""Of loops in one rendering, for part of a second; a call counts as several. Conversations take thousands."""
_CALL_TURNS = 10
_ELEMENTS_PER_TURN = 256
"""Characters or elements that are made at the price of one turn: half a gigabyte by one rendering, of which most go."""
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
        self.filters["join"] = _joining(self.filters["join"])
        self.filters = {name: paid(compute) for name, compute in self.filters.items()}
        self.filters[_COUNTED] = _counted
        self.finalize = _shown

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
            if name == "join":
                args = tuple(items if isinstance(items, Sized) else list(items) for items in args)
            check_method(owner, name, (*args, *named.values()))
        return _pay_for(context, super().call(context, function, *args, **named))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """What a template gets for a text's `format`, in jinja2's own place for that: `call` cannot see the text."""
        if super().wrap_str_format(value) is None:
            return None
        text, name = value.__self__, value.__name__

        @functools.wraps(value)
        def bounded(*args: Any, **named: Any) -> str:
            check_method(text, name, args)
            formatter = (_EscapingFormatter if isinstance(text, Markup) else _Formatter)(self, text)
            return cast("str", type(text)(formatter.vformat(text, args, named)))

        return bounded

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what can make much of little, unless it is too much."""
        if operator == "+":
            return _pay_for(context, left + right)
        if operator == "%" and isinstance(left, str):
            check_percents(left, right)
        elif operator == "*":
            check_product(left, right)
        elif operator == "**":
            check_power(left, right)
        return _pay_for(context, super().call_binop(context, operator, left, right))


class _BoundedFormatter(string.Formatter):
    """Looks at each field before it is written, and at what all come to."""

    _size = 0

    def convert_field(self, value: Any, conversion: Any) -> Any:
        bounded_text(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        bounded_text(value)
        check_widths(format_spec)
        field = super().format_field(value, format_spec)
        self._size += len(field)
        believed(self._size)
        return field


class _Formatter(_BoundedFormatter, jinja2.sandbox.SandboxedFormatter):
    def __init__(self, environment: BoundedEnvironment, text: str) -> None:
        del text
        super().__init__(environment)


class _EscapingFormatter(_BoundedFormatter, jinja2.sandbox.SandboxedEscapeFormatter):
    def __init__(self, environment: BoundedEnvironment, text: Markup) -> None:
        super().__init__(environment, escape=text.escape)


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


def _pay_for(context: jinja2.runtime.Context, result: Any) -> Any:
    """What was made, if it is not too much; much of it costs turns, for it may all be kept."""
    if isinstance(result, Sized):
        size = believed(len(result))
        if size >= _ELEMENTS_PER_TURN:
            _spend(context, size // _ELEMENTS_PER_TURN)
    return result


@jinja2.pass_context
def _shown(context: jinja2.runtime.Context, value: Any) -> Any:
    """What stands between braces, which may be on its way into a variable."""
    bounded_text(value)
    return _pay_for(context, value) if isinstance(value, str) else value


def paid(compute: Callable[..., Any]) -> Callable[..., Any]:
    """The filter with a look at what it made."""
    given = getattr(compute, "jinja_pass_arg", None)

    @jinja2.pass_context
    @functools.wraps(compute)
    def computed(context: jinja2.runtime.Context, *args: Any, **named: Any) -> Any:
        if given is not None:
            first = {"context": context, "eval_context": context.eval_ctx, "environment": context.environment}
            args = (first[given.name], *args)
        return _pay_for(context, compute(*args, **named))

    return computed


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
