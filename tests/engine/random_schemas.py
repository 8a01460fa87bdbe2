"""JSON schemas of many kinds whose instances are short, so that a random model comes to an end of them."""

from __future__ import annotations

import random
from typing import Any

_FORMATS = ("date", "uuid", "ipv4")
_PATTERNS = ("^[a-z]{1,6}$", "^(ab|cd)+x?$", r"^\d{3}-\d{4}$", "^[A-Z][a-z]*$")


def random_schema(seed: int) -> dict[str, Any]:
    """The same seed gives the same schema."""
    numbers = random.Random(seed)
    schema = _schema(numbers, depth=3)
    if numbers.random() < 0.2:
        schema = {"$defs": {"inner": schema}, "type": "object", "required": ["x"], "additionalProperties": False,
                  "properties": {"x": {"$ref": "#/$defs/inner"}, "y": {"$ref": "#/$defs/inner"}}}  # fmt: skip
    return schema


def _schema(numbers: random.Random, depth: int) -> dict[str, Any]:
    kinds = [_string, _integer, _number, _constant]
    if depth:
        kinds += [_object, _object, _object, _array, _array, _any_of]
    return numbers.choice(kinds)(numbers, depth - 1)


def _string(numbers: random.Random, _: int) -> dict[str, Any]:
    bounds = {"minLength": numbers.randrange(3), "maxLength": numbers.randrange(3, 9)}
    kind: dict[str, Any] = numbers.choice(
        [bounds, bounds, {"format": numbers.choice(_FORMATS)}, {"pattern": numbers.choice(_PATTERNS)}]
    )
    return {"type": "string", **kind}


def _integer(numbers: random.Random, _: int) -> dict[str, Any]:
    low = numbers.randrange(-500, 500)
    kinds: list[dict[str, Any]] = [
        {"minimum": low, "maximum": low + numbers.randrange(1000)},
        {"exclusiveMinimum": low, "exclusiveMaximum": low + numbers.randrange(2, 1000)},
        {"minimum": 0, "maximum": 500, "multipleOf": numbers.choice([2, 5, 7])},
    ]
    return {"type": "integer", **numbers.choice(kinds)}


def _number(numbers: random.Random, _: int) -> dict[str, Any]:
    return {"type": "number", "minimum": numbers.randrange(-9, 0), "exclusiveMaximum": numbers.randrange(1, 99)}


def _constant(numbers: random.Random, _: int) -> dict[str, Any]:
    values = [None, True, -3, 2.5, 'a "b" \\ c', "ü", [], {"k": [1]}, "x" * 9]
    kinds: list[dict[str, Any]] = [
        {"type": "boolean"}, {"type": "null"}, {"const": numbers.choice(values)}, {"enum": numbers.sample(values, 3)},
    ]  # fmt: skip
    return numbers.choice(kinds)


def _object(numbers: random.Random, depth: int) -> dict[str, Any]:
    names = numbers.sample(["a", "b c", "name", "ä", 'q"', "value"], numbers.randrange(1, 4))
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _schema(numbers, depth) for name in names},
        "required": numbers.sample(names, numbers.randrange(len(names) + 1)),
        "additionalProperties": False,
    }
    if numbers.random() < 0.2:
        schema |= {"additionalProperties": _schema(numbers, 0), "maxProperties": len(names), "required": names}
    return schema


def _array(numbers: random.Random, depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "array", "items": _schema(numbers, depth), "maxItems": numbers.randrange(1, 4)}
    if numbers.random() < 0.3:
        schema |= {"prefixItems": [_schema(numbers, 0), _schema(numbers, 0)], "minItems": 2, "maxItems": 3}
    return schema


def _any_of(numbers: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_schema(numbers, depth) for _ in range(numbers.randrange(2, 4))]}
