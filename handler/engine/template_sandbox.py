"""Where chat templates run: jinja2's sandbox, with bounds on how long one may take and how much it may make.

A template is a program that comes with a model. The sandbox keeps it from the process, but lets it loop through loops
and double a text forty times. Owns the places where sizes are looked at and turns are paid (`template_turns.py`); which
sizes are too much is said in `template_bounds.py`. Any thread, one rendering each. Knows no messages.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sized
from typing import Any, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.runtime
import jinja2.sandbox
import jinja2.visitor

from handler.engine.template_bounds import (
    believed,
    bounded_text,
    check_method,
    check_percents,
    check_power,
    check_product,
)
from handler.engine.template_filters import bounded_filters
from handler.engine.template_format import formatter_of
from handler.engine.template_turns import budget, counted, pay_for, spend

_CALL_TURNS = 10
_COUNTED = "counted turns"  # no name that a template could write


class BoundedEnvironment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Loops and calls are counted, and what makes texts longer looks at their length."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters = bounded_filters(self.filters)
        del self.globals["lipsum"]
        self.filters[_COUNTED] = counted
        self.finalize = _shown

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(jinja2.nodes.For):
            loop.iter = _filtered(loop.iter, _COUNTED)
        joined: jinja2.nodes.Template = _Joins().visit(template)
        return joined

    def call(self, context: jinja2.runtime.Context, function: Any, *args: Any, **named: Any) -> Any:
        """Call what a template calls, which costs some turns."""
        spend(context, _CALL_TURNS)
        owner = getattr(function, "__self__", None)
        name = getattr(function, "__name__", "")
        if isinstance(owner, str | bytes | int):
            if name == "join":
                args = tuple(items if isinstance(items, Sized) else list(items) for items in args)
            check_method(owner, name, (*args, *named.values()))
        return pay_for(context, super().call(context, function, *args, **named))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """What a template gets for a text's `format`, in jinja2's own place for that: `call` cannot see the text."""
        if super().wrap_str_format(value) is None:
            return None
        text, name = value.__self__, value.__name__

        @functools.wraps(value)
        def bounded(*args: Any, **named: Any) -> str:
            check_method(text, name, args)
            return cast("str", type(text)(formatter_of(self, text).vformat(text, args, named)))

        return bounded

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        """Compute what can make much of little, unless it is too much."""
        if operator == "+":
            return pay_for(context, left + right)
        if operator == "%" and isinstance(left, str):
            check_percents(left, right)
        elif operator == "*":
            check_product(left, right)
        elif operator == "**":
            check_power(left, right)
        return pay_for(context, super().call_binop(context, operator, left, right))


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
    for part in template.generate({**variables, **budget()}):
        parts.append(part)
        size += len(part)
        believed(size)
    return "".join(parts)


def _filtered(node: jinja2.nodes.Node, name: str) -> jinja2.nodes.Filter:
    value = cast("jinja2.nodes.Expr", node)
    return jinja2.nodes.Filter(value, name, [], [], None, None, lineno=node.lineno, environment=node.environment)


@jinja2.pass_context
def _shown(context: jinja2.runtime.Context, value: Any) -> Any:
    """What stands between braces, which may be on its way into a variable."""
    bounded_text(value)
    return pay_for(context, value) if isinstance(value, str) else value
