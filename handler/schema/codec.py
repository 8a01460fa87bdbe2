"""JSON to structs and back, with errors that name the field at fault. One pass of msgspec validates a request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from handler.errors import InvalidRequestError

StructT = TypeVar("StructT", bound=msgspec.Struct)

_MAX_MESSAGE_LENGTH = 1000

_PATH = re.compile(r"^(?P<message>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_NAMED = re.compile(r"field `(?P<field>[^`]*)`")
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # ValidationError is a DecodeError
_encode = msgspec.json.Encoder().encode


def encode_json(value: msgspec.Struct | dict[str, Any] | Sequence[msgspec.Struct]) -> bytes:
    """The value as JSON."""
    return _encode(value)


def decode_request(decoder: msgspec.json.Decoder[StructT], body: bytes) -> StructT:
    """Decode and validate a body.

    Raises:
        InvalidRequestError: no JSON, a wrong type, a value out of range, a missing or an unknown field; `param` is
            the path of the field, in OpenAI's notation (`messages[0].role`).
    """
    try:
        return decoder.decode(body)
    except _UNDECODABLE as error:
        raise _invalid(error) from error


def decode_object(body: bytes) -> dict[str, Any]:
    """Decode a body whose types `convert_request` checks later.

    Raises:
        InvalidRequestError: no JSON, or no object.
    """
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except _UNDECODABLE as error:
        raise _invalid(error) from error


def convert_request(value: dict[str, Any], kind: type[StructT]) -> StructT:
    """Validate a decoded body; errors are those of `decode_request`."""
    try:
        return msgspec.convert(value, kind)
    except _UNDECODABLE as error:
        raise _invalid(error) from error


def _invalid(error: Exception) -> InvalidRequestError:
    if isinstance(error, msgspec.ValidationError):
        match = _PATH.match(str(error))
        assert match is not None
        message, path = match["message"][:_MAX_MESSAGE_LENGTH], (match["path"] or "").replace("[...]", "")
        named = _NAMED.search(message)
        if named is not None:
            path = f"{path}.{named['field']}" if path else named["field"]
        where = f"{path}: " if path else ""
        return InvalidRequestError(f"{where}{message}", path or None)
    if isinstance(error, RecursionError):
        return InvalidRequestError("The body is nested too deeply")
    return InvalidRequestError(f"The body is not valid JSON: {error}")
