"""JSON to structs and back, with errors that name the field at fault. One pass of msgspec validates a request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import orjson

from handler.errors import InvalidRequestError
from handler.schema.diagnosis import repeated_name, undecodable
from handler.schema.unsupported import asks_for_refused, explain, find_refused

StructT = TypeVar("StructT", bound=msgspec.Struct)

_MAX_MESSAGE_LENGTH = 1000

_PATH = re.compile(r"^(?P<message>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_NAMED = re.compile(r"field `(?P<field>[^`]*)`")
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # ValidationError is a DecodeError
_ESCAPED_COLON = re.compile(rb"(?<!\\)(?:\\\\)*\\u003[aA]")
_BACKSLASH = ord("\\")
_TOO_DEEP = "nested too deeply; 250 levels of arrays and objects are taken"
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def encode_json(value: msgspec.Struct | dict[str, Any] | Sequence[msgspec.Struct]) -> bytes:
    """The value as JSON."""
    return _encode(value)


def decode_request(decoder: msgspec.json.Decoder[StructT], body: bytes) -> StructT:
    """Decode and validate a body.

    Raises:
        InvalidRequestError: no JSON, a wrong type, a value out of range or without use here, a missing or an unknown
            field, one that is there twice; `param` is the path of the field, in OpenAI's notation (`messages[0].role`).
    """
    try:
        request = decoder.decode(body)
    except _UNDECODABLE as error:
        raise _invalid(error, body, decoder.type) from error
    _check_members(body)
    return _checked(request)


def decode_object(body: bytes) -> dict[str, Any]:
    """Decode a body whose types `convert_request` checks later.

    Raises:
        InvalidRequestError: no JSON, or no object; a name that is there twice.
    """
    try:
        value = _decode_object(body)
    except _UNDECODABLE as error:
        raise _invalid(error, body) from error
    _check_members(body)
    return value


def check_depth(text: str, param: str) -> None:
    """Refuse valid JSON, the text of a field, that is nested so deeply that later steps have no room on their stacks.

    Raises:
        InvalidRequestError: it is; names `param`.
    """
    _rewritten(text, param)


def _check_members(body: bytes) -> None:
    """Refuse valid JSON in which a name comes twice, for the last one would win in silence; and too deep nesting.

    Written again, JSON has as many colons as before, unless a member was lost: no other look at most bodies is needed.
    """
    num_colons = body.count(b":")
    if _BACKSLASH in body:
        num_colons += len(_ESCAPED_COLON.findall(body))
    if _rewritten(body).count(b":") != num_colons:
        path = repeated_name(body)
        raise InvalidRequestError(f"{path or 'The body'}: the same name is there twice", path)


def _rewritten(text: bytes | str, param: str | None = None) -> bytes:
    try:
        return orjson.dumps(orjson.loads(text))
    except orjson.JSONEncodeError as error:  # orjson writes 254 levels
        raise InvalidRequestError(f"{param or 'The body'} is {_TOO_DEEP}", param) from error
    except orjson.JSONDecodeError as error:
        reason = _TOO_DEEP if "depth" in str(error) else f"not valid JSON: {error}"
        raise InvalidRequestError(f"{param or 'The body'} is {reason}", param) from error


def convert_request(value: dict[str, Any], kind: type[StructT]) -> StructT:
    """Validate a decoded body; errors are those of `decode_request`."""
    try:
        request = msgspec.convert(value, kind)
    except _UNDECODABLE as error:
        raise _invalid(error, b"", kind) from error
    return _checked(request)


def _checked(request: StructT) -> StructT:
    if not asks_for_refused(request):
        return request
    for name, message in find_refused(request):
        raise InvalidRequestError(f"{name}: {message}", name)
    return request


def _invalid(error: Exception, body: bytes, kind: type[msgspec.Struct] | None = None) -> InvalidRequestError:
    if isinstance(error, RecursionError):
        return InvalidRequestError(f"The body is {_TOO_DEEP}")
    if not isinstance(error, msgspec.ValidationError):
        return InvalidRequestError(*undecodable(body, str(error)))
    match = _PATH.match(str(error))
    assert match is not None
    message, path = match["message"][:_MAX_MESSAGE_LENGTH], (match["path"] or "").replace("[...]", "")
    named = _NAMED.search(message)
    if named is not None:
        path = f"{path}.{named['field']}" if path else named["field"]
    where = f"{path}: " if path else ""
    return InvalidRequestError(f"{where}{message if kind is None else explain(kind, path, message)}", path or None)
