"""Fields that are known and have no use here: null is absent, and anything that asks for something is refused with why.

The schema says it all, so that `/openapi.json` does too: a field typed null takes null alone, a boolean that is
`NEVER_TRUE` takes false as well, and the description says why. An enumeration takes its values, and its description
says why there are no others.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Iterator

import msgspec
from msgspec import inspect

NEVER_TRUE = {"const": False}
"""For the `extra_json_schema` of a boolean."""


def explain(kind: type[msgspec.Struct], path: str, message: str) -> str:
    """Msgspec's `message` about the value at `path`, with the reason where the schema gives one."""
    found = re.match(r"[^.\[]*", path)
    described = _described(kind).get(found[0]) if found else None
    match described:
        case (inspect.NoneType(), reason):
            return f"not supported. {reason}"
        case (inspect.LiteralType() | inspect.ListType(item_type=inspect.LiteralType()), reason):
            return f"{message}. {reason}"
    return message


def asks_for_refused(request: msgspec.Struct) -> bool:
    """Whether `find_refused` finds something."""
    return True in _never_true(type(request)).values(request)


def find_refused(request: msgspec.Struct) -> Iterator[tuple[str, str]]:
    """Booleans that are true and must not be, each with what is wrong."""
    for name, reason in _never_true(type(request)).reasons:
        if getattr(request, name):
            yield name, f"true is not supported. {reason}"


class _NeverTrue(msgspec.Struct, frozen=True):
    """Booleans of a schema that must not be true: each with the reason, and what reads all of them in one call."""

    reasons: tuple[tuple[str, str], ...]
    values: Callable[[msgspec.Struct], tuple[bool | None, ...]]


@functools.cache
def _never_true(kind: type[msgspec.Struct]) -> _NeverTrue:
    described = _described(kind).items()
    reasons = tuple((name, reason) for name, (found, reason) in described if isinstance(found, inspect.BoolType))
    names = [name for name, _ in reasons]
    if len(names) > 1:
        return _NeverTrue(reasons, operator.attrgetter(*names))
    return _NeverTrue(reasons, lambda request: tuple(getattr(request, name) for name in names))


@functools.cache
def _described(kind: type[msgspec.Struct]) -> dict[str, tuple[inspect.Type, str]]:
    """Fields that have a reason in their schema, each with its type and the reason."""
    described: dict[str, tuple[inspect.Type, str]] = {}
    info = inspect.type_info(kind)
    for field in info.fields if isinstance(info, inspect.StructType) else ():
        for part in field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,):
            schema = part.extra_json_schema or {} if isinstance(part, inspect.Metadata) else {}
            if not isinstance(part, inspect.Metadata) or "description" not in schema:
                continue
            if not isinstance(part.type, inspect.BoolType) or schema.get("const") is False:
                described[field.encode_name] = (part.type, schema["description"])
    return described
