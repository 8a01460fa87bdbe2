"""Where chat templates run: jinja2's sandbox, with bounds on how long one may take and how much it may make.

A template is a program that comes with a model. The sandbox keeps it from the process, but lets it loop through loops
and double a text forty times. Knows no messages.
"""

from __future__ import annotations

import functools
import re
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
_DIGITS = re.compile("[0-9]+")

_BUDGET = "turns left"  # no name that a template could write
_COUNTED = "counted turns"
_WIDENING = frozenset({"center", "ljust", "rjust", "zfill", "format"})
_MOST_PARTS = 100_000  # into which a list is cut; `range` makes no more either
_UNBOUNDED = ("urlize", "wordwrap", "xmlattr", "pprint")  # filters that no chat template has a use for
_UNBOUNDED_METHODS = frozenset({"encode", "translate", "expandtabs", "format_map", "to_bytes"})


class TooMuchError(jinja2.TemplateRuntimeError):
    """The template goes beyond the bounds."""


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Loops and calls are counted, and what makes texts longer looks at their length."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters["center"] = _widening(self.filters["center"])
        self.filters |= {name: _cutting(self.filters[name]) for name in ("batch", "slice", "round")}
        self.filters |= {name: _checked(self.filters[name], check) for name, check in _CHECKS.items()}
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
        if isinstance(owner, str | bytes | int) and name in _UNBOUNDED_METHODS:
            raise TooMuchError(f"{name}() is not for templates")
        if isinstance(owner, str):
            _check_method(owner, name, (*args, *named.values()))
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
            bounded_text(right)
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
        bounded_text(items)
        _believed(len(items) * len(str(d)) + sum(len(item) for item in items if isinstance(item, str)))
        return join(context, items, d, attribute)

    return bounded


def _check_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    if name in _WIDENING:
        for number in args:
            _believed(number)
        if name == "format":
            _check_widths(text)
            bounded_text(args)
    elif name == "replace" and len(args) > 1:
        _check_replacement(text, args[0], args[1])
    elif name == "join":
        for items in args:
            bounded_text(items)
            _believed(len(text) * len(items) if isinstance(items, Sized) else 0)


def _check_replacement(text: Any, old: Any, new: Any, *_: Any) -> None:
    before, after = str(text), str(new)
    _believed(len(before) + before.count(str(old)) * len(after))


def _check_indent(text: Any, width: int | str = 4, *_: Any) -> None:
    _believed((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(width)))


def _check_sum(items: Iterable[Any], *_: Any) -> None:
    """Lists are copied once for each that comes behind them."""
    sizes = [len(item) for item in items if isinstance(item, Sized)] if isinstance(items, Sized) else []
    _believed(sum(sizes) * len(sizes))


def _check_form(form: Any, *args: Any) -> None:
    _check_widths(str(form))
    bounded_text(args)


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


def bounded_text(value: Any, indent: int = 0) -> Any:
    """The value, if it is none of those that a text would become too long of: lists of lists grow fast."""
    _text_size(value, indent)
    return value


def _text_size(value: Any, indent: int = 0) -> int:
    size, waiting = 0, [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        size += 1 + indent * depth
        if isinstance(part, str):
            size += len(part)
        elif isinstance(part, Mapping):
            waiting += [(inner, depth + 1) for item in part.items() for inner in item]
        elif isinstance(part, list | tuple | set | frozenset):
            waiting += [(inner, depth + 1) for inner in part]
        _believed(size + len(waiting))
    return size


def _check_widths(form: str) -> None:
    """Refuse widths and precisions that come to much together, and one that is an argument."""
    if "*" in form or any(len(digits) > 6 for digits in _DIGITS.findall(form)):
        raise TooMuchError("a format asks for too wide a field")
    _believed(sum(int(digits) for digits in _DIGITS.findall(form)))


def _check_product(left: Any, right: Any) -> None:
    for some, times in ((left, right), (right, left)):
        if isinstance(some, Sized) and isinstance(times, int):
            _believed(len(some) * times)
            return
    if _bits(left) + _bits(right) > _MAX_BITS:
        raise TooMuchError("a number is too large")


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 0


_CHECKS: dict[str, Callable[..., None]] = {
    "indent": _check_indent,
    "replace": _check_replacement,
    "sum": _check_sum,
    "format": _check_form,
    "string": bounded_text,
}
