"""What is wrong with a body that is no good JSON. Asked only when something is: it takes its time, but not much of it.

JSON is RFC 8259's: UTF-8 without a byte order mark, no NaN, no half of a surrogate pair. Of a name that an object has
twice the RFC leaves open what is meant.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

_BOM = b"\xef\xbb\xbf"
_OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff")  # byte order marks of UTF-16 and UTF-32
_EXCERPT_CHARACTERS = 40
_SEARCHED_BYTES = 64 * 1024
"""Up to here fields are looked for, which takes part of a millisecond, and of megabytes part of a second."""

Problem = tuple[str, str | None]
"""What is wrong, and the path of the field where there is one."""


def undecodable(body: bytes, complaint: str) -> Problem:
    """Why `body` is no JSON, which its decoder has found; its own `complaint` where nothing better can be said."""
    if not body.strip(b" \t\r\n"):
        return "The body is empty; it must be JSON", None
    reason = _wrong_encoding(body)
    if reason is None and len(body) <= _SEARCHED_BYTES:
        try:
            path = _find(json.loads(body, parse_constant=_refuse_constant, object_pairs_hook=_Members), _is_half)
        except _ConstantError as error:
            reason = f"{error} is no JSON number"
        except (ValueError, RecursionError):
            pass
        else:
            if path is not None:
                return f"{path or 'The body'}: half of a surrogate pair stands alone, which is no text", path
    return f"The body is not valid JSON: {reason or complaint}", None


def _wrong_encoding(body: bytes) -> str | None:
    if body.startswith(_BOM):
        return "it begins with a byte order mark; send UTF-8 without one"
    if body.startswith(_OTHER_UNICODE) or b"\0" in body[:4]:
        return "it looks like UTF-16 or UTF-32; send UTF-8"
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return f"it is not UTF-8: {error.reason} at byte {error.start}"
    return None


def repeated_name(body: bytes) -> str | None:
    """The path of the first member whose name its object has twice; None in a large body. `body` is valid JSON."""
    if len(body) > _SEARCHED_BYTES:
        return None
    return _find(json.loads(body, object_pairs_hook=_Members), lambda _: False)


class _Members(list[tuple[str, Any]]):
    """An object with all its members, also those of one name."""


class _ConstantError(Exception):
    """NaN, Infinity or -Infinity, which Python's own decoder would take."""


def _refuse_constant(name: str) -> NoReturn:
    raise _ConstantError(name)


def _find(value: Any, is_wrong: Callable[[str], bool]) -> str | None:
    """The path of the first string that is wrong, or of the first name that comes twice. Does not recurse."""
    waiting = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, str):
            if is_wrong(value):
                return path
        elif isinstance(value, _Members):
            names = set()
            for name, _ in value:
                if name in names or is_wrong(name):
                    return _joined(path, name)
                names.add(name)
            waiting += reversed([(_joined(path, name), member) for name, member in value])
        elif isinstance(value, list):
            waiting += reversed([(f"{path}[{index}]", item) for index, item in enumerate(value)])
    return None


def _joined(path: str, name: str) -> str:
    shown = name[:_EXCERPT_CHARACTERS].encode(errors="backslashreplace").decode()
    return f"{path}.{shown}" if path else shown


def _is_half(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
