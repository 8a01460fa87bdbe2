"""Makes bad inputs of good ones: JSON by its structure, anything by its bytes. Pure, and repeatable by its generator."""

from __future__ import annotations

import functools
import json
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

NUMBERS = [
    "0",
    "-0",
    "1",
    "-1",
    "1e400",
    "1e-400",
    "9" * 5000,
    "18446744073709551616",
    "0.1",
    "NaN",
    "-Infinity",
    "1.0",
]
TEXTS = [
    "",
    "a",
    "\0",
    "\ud800",
    "a\udc00",
    "\u2028",
    "👩‍👩‍👧",
    "a" * 5000,
    "<|im_end|>",
    "{{ 1 }}",
    "system",
    "data: x\n\n",
]
LITERALS = ["null", "true", "false", "[]", "{}", "[null]", '{"":{}}', "[" * 300 + "]" * 300, '{"type":"x"}']
PIECES = [
    *(
        b"\0",
        b"\xff",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b'"',
        b"\\",
        b"\\u",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"]",
    ),
    *(b":", b",", b"\r\n", b"\n", b" ", b"\t", b"0", b"-", b"e9", b"/*", b"NaN", b"null", b"\x1f", b"\x7f", b"'"),
]
INTEGERS = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    32,
    255,
    256,
    4096,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**60,
    2**63 - 1,
    2**63,
    2**64 - 1,
]

_ESCAPED, _AS_IT_IS = json.encoder.encode_basestring_ascii, json.encoder.encode_basestring
Mutate = Callable[[random.Random, bytes], bytes]


def mutated_json(rng: random.Random, seed: bytes) -> bytes:
    """A JSON text with other values, members and nesting, and sometimes other bytes."""
    value = _parsed(seed)  # nothing changes it: each change makes another one
    for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        value = _change(rng, value)
    text = _written(rng, value).encode("utf-8", "surrogatepass")
    return mutated_bytes(rng, text) if rng.random() < 0.3 else text


def mutated_bytes(rng: random.Random, seed: bytes, pieces: Sequence[bytes] = PIECES) -> bytes:
    """Bytes changed, put in, taken out, repeated and cut off."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        position = rng.randrange(len(data) + 1)
        end = min(len(data), position + rng.choice((1, 1, 2, 4, 16, 200)))
        match rng.randrange(6):
            case 0:
                data[position:end] = rng.randbytes(end - position)
            case 1 | 2:
                data[position:position] = rng.choice(pieces)
            case 3:
                del data[position:end]
            case 4:
                data[position:position] = data[position:end] * rng.choice((1, 2, 50))
            case _:
                if rng.random() < 0.3:
                    del data[position:]
    return bytes(data)


def mutated_binary(rng: random.Random, seed: bytes, header_bytes: int) -> bytes:
    """Mostly other integers in the first `header_bytes`; sometimes anything."""
    data = bytearray(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        form = rng.choice(("<I", "<Q", "<B", "<H"))
        position = rng.randrange(max(1, min(header_bytes, len(data)) - 8))
        value = rng.choice(INTEGERS) if rng.random() < 0.7 else rng.getrandbits(64)
        struct.pack_into(form, data, position, value % (1 << 8 * struct.calcsize(form)))
    if rng.random() < 0.1:
        del data[rng.randrange(len(data)) :]
    return mutated_bytes(rng, bytes(data)) if rng.random() < 0.1 else bytes(data)


@functools.cache
def _parsed(seed: bytes) -> Any:
    return json.loads(seed)


class _Raw(str):
    """JSON as it is to be written."""

    __slots__ = ()


def _nasty(rng: random.Random) -> Any:
    kind = rng.randrange(4)
    if kind == 0:
        return _Raw(rng.choice(NUMBERS))
    if kind == 1:
        return rng.choice(TEXTS)
    return _Raw(rng.choice(LITERALS)) if kind == 2 else rng.choice((rng.randint(-5, 200), rng.uniform(-3, 3)))


def _change(rng: random.Random, value: Any) -> Any:
    """The value with one thing changed, at a random place below it."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        return _change_member(rng, value, name)
    if isinstance(value, list) and value and rng.random() < 0.8:
        index = rng.randrange(len(value))
        match rng.randrange(6):
            case 0:
                return value[:index] + value[index + 1 :]
            case 1:
                return value + [value[index]] * rng.choice((1, 1, 2, 2, 2, 2, 2, 200))
            case _:
                return [*value[:index], _change(rng, value[index]), *value[index + 1 :]]
    return rng.choice((_nasty(rng), [value], {"a": value}, value))


def _change_member(rng: random.Random, value: dict[str, Any], name: str) -> dict[str, Any]:
    match rng.randrange(10):
        case 0:
            return {other: member for other, member in value.items() if other != name}
        case 1:
            return value | {rng.choice((f"{name}x", "", "stream", "n", "\0", "messages", "prompt")): value[name]}
        case 2:
            return value | {name: _nasty(rng)}
        case 3:
            return value | {name: value[rng.choice(list(value))]}
        case 4:
            return value | {_Twice(name): _nasty(rng)}
        case _:
            return value | {name: _change(rng, value[name])}


class _Twice(str):
    """A name that another member has as well."""

    __slots__ = ()

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


def _written(rng: random.Random, value: Any) -> str:
    if isinstance(value, _Raw):
        return value
    if isinstance(value, dict):
        members = (f"{_quoted(rng, name)}:{_written(rng, member)}" for name, member in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(rng, item) for item in value) + "]"
    return _quoted(rng, value) if isinstance(value, str) else json.dumps(value)


def _quoted(rng: random.Random, text: str) -> str:
    return _ESCAPED(text) if rng.random() < 0.5 else _AS_IT_IS(text)
