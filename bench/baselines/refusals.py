"""From pydantic's complaints about a body to the function's own error, which names the field as OpenAI writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from handler.errors import InvalidRequestError

_UNIONS = frozenset({"content", "stop"})
"""Fields of several types: behind each pydantic names the type that it has tried."""


def refusal(errors: Sequence[Mapping[str, Any]], skipped: int = 0) -> InvalidRequestError:
    """The error to answer with.

    Args:
        errors: as pydantic lists them; one at least.
        skipped: parts at the beginning of each location that are no part of the body.
    """
    error = max(errors, key=lambda each: len(each["loc"]))  # of a union's types the one that fits best
    path = "" if error["type"] == "json_invalid" else _path(error["loc"][skipped:])
    return InvalidRequestError(f"{path}: {error['msg']}" if path else str(error["msg"]), path or None)


def _path(location: Sequence[str | int]) -> str:
    path, is_branch = "", False
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not is_branch:
            path = f"{path}.{part}" if path else part
        is_branch = part in _UNIONS
    return path
