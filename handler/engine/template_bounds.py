"""How much a template may make: what a text, a list or a number would become is known before it is made.

Functions over values that raise `TooMuchError`; the sandbox has them called. Any thread; knows no templates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from typing import Any

import jinja2
import jinja2.utils

MAX_SIZE = 16 << 20
"""Characters of one text and elements of one list; four times what a request's body may have by default."""
_MAX_BITS = 4096
_DIGITS = re.compile("[0-9]+")
_WIDENING = frozenset({"center", "ljust", "rjust", "zfill"})
_UNBOUNDED_METHODS = frozenset({"encode", "translate", "expandtabs", "format_map", "to_bytes"})


class TooMuchError(jinja2.TemplateRuntimeError):
    """The template goes beyond the bounds."""


def believed(size: Any) -> Any:
    """The size, or width, if a text can have it."""
    if isinstance(size, int) and size > MAX_SIZE:
        raise TooMuchError(f"the template makes more than {MAX_SIZE} characters")
    return size


def bounded_text(value: Any, indent: int = 0) -> Any:
    """The value, if it is none of those that a text would become too long of: lists of lists grow fast."""
    _text_size(value, indent)
    return value


def _text_size(value: Any, indent: int = 0) -> int:
    size, waiting = 0, [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        size += 1 + indent * depth
        if isinstance(part, str | bytes):
            size += len(part)
        elif isinstance(part, jinja2.utils.Namespace):  # whose text is that of all it holds
            waiting.append((part._Namespace__attrs, depth))  # noqa: SLF001  (jinja2 has no other way)
        elif isinstance(part, Mapping):
            waiting += [(inner, depth + 1) for item in part.items() for inner in item]
        elif isinstance(part, Collection):
            waiting += [(inner, depth + 1) for inner in part]
        believed(size + len(waiting))
    return size


def check_widths(form: str) -> None:
    """Refuse widths and precisions that come to much together."""
    if any(len(digits) > 6 for digits in _DIGITS.findall(form)):
        raise TooMuchError("a format asks for too wide a field")
    believed(sum(int(digits) for digits in _DIGITS.findall(form)))


def check_percents(form: str, values: Any) -> None:
    """Refuse a format whose `%` make too much of these values, each of which it may name again and again."""
    if "*" in form:
        raise TooMuchError("a format takes its width from an argument")
    check_widths(form)
    believed(form.count("%") * _text_size(values))


def check_power(base: Any, exponent: Any) -> None:
    """Refuse a power of more digits than a template has a use for."""
    if abs(exponent) > _MAX_BITS or _bits(base) * abs(exponent) > _MAX_BITS:
        raise TooMuchError("a number is too large")


def check_product(left: Any, right: Any) -> None:
    """Refuse a text or list that is repeated too often, and numbers that are too large."""
    for some, times in ((left, right), (right, left)):
        if isinstance(some, Sized) and isinstance(times, int):
            believed(len(some) * times)
            return
    if _bits(left) + _bits(right) > _MAX_BITS:
        raise TooMuchError("a number is too large")


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def check_method(owner: str | bytes | int, name: str, args: tuple[Any, ...]) -> None:
    """Refuse what a method would make too much of."""
    if name in _UNBOUNDED_METHODS:
        raise TooMuchError(f"{name}() is not for templates")
    if isinstance(owner, str):
        _check_text_method(owner, name, args)


def _check_text_method(text: str, name: str, args: tuple[Any, ...]) -> None:
    if name in _WIDENING:
        for number in args:
            believed(number)
    elif name == "replace" and len(args) > 1:
        _check_replacement(text, args[0], args[1])
    elif name == "join":
        for items in args:
            bounded_text(items)
            believed(len(text) * len(items) if isinstance(items, Sized) else 0)


def _check_replacement(text: Any, old: Any, new: Any, *_: Any) -> None:
    before, after = str(text), str(new)
    believed(len(before) + before.count(str(old)) * len(after))


def _check_indent(text: Any, width: int | str = 4, *_: Any) -> None:
    believed((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(width)))


def _check_sum(items: Iterable[Any], *_: Any) -> None:
    """Lists are copied once for each that comes behind them."""
    sizes = [len(item) for item in items if isinstance(item, Sized)] if isinstance(items, Sized) else []
    believed(sum(sizes) * len(sizes))


def _check_form(form: Any, *args: Any) -> None:
    check_percents(str(form), args)


FILTER_CHECKS: dict[str, Callable[..., None]] = {
    "indent": _check_indent,
    "replace": _check_replacement,
    "sum": _check_sum,
    "format": _check_form,
    "string": bounded_text,
}
"""What is asked before a filter of jinja2's computes, by its name; with its input and all arguments."""
