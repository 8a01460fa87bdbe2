"""JSON to structs and back, with errors that name the field at fault. One pass of msgspec validates a request."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

from handler.errors import InvalidRequestError
from handler.schema.unsupported import explain, find_refused

StructT = TypeVar("StructT", bound=msgspec.Struct)

_MAX_MESSAGE_LENGTH = 1000

_PATH = re.compile(r"^(?P<message>.*?)(?: - at (?:`key` in )?`\$\.?(?P<path>.*)`)?$", re.DOTALL)
_NAMED = re.compile(r"field `(?P<field>[^`]*)`")
_encode = msgspec.json.Encoder().encode


def encode_json(value: msgspec.Struct | dict[str, Any]) -> bytes:
    """The value as JSON."""
    return _encode(value)


def decode_request(decoder: msgspec.json.Decoder[StructT], body: bytes) -> StructT:
    """Decode and validate a body.

    Raises:
        InvalidRequestError: no JSON, a wrong type, a value out of range or without use here, a missing or an unknown
            field; `param` is the path of the field, in OpenAI's notation (`messages[0].role`).
    """
    try:
        request = decoder.decode(body)
    except msgspec.ValidationError as error:
        match = _PATH.match(str(error))
        assert match is not None
        message, path = match["message"][:_MAX_MESSAGE_LENGTH], (match["path"] or "").replace("[...]", "")
        named = _NAMED.search(message)
        if named is not None:
            path = f"{path}.{named['field']}" if path else named["field"]
        where = f"{path}: " if path else ""
        raise InvalidRequestError(f"{where}{explain(decoder.type, path, message)}", path or None) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The body is not valid JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequestError("The body is nested too deeply") from error
    for name, message in find_refused(request):
        raise InvalidRequestError(f"{name}: {message}", name)
    return request
