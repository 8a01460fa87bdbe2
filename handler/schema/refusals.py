"""Better words for refusals whose reason the decoder cannot know: fields and values that exist elsewhere."""

from __future__ import annotations

import re

from handler.errors import InvalidRequestError

_USE_TOOLS = "use tools, tool_choice and messages with role 'tool'"
_PARTS = {"image_url": "images are", "input_audio": "audio is", "file": "files are"}

_INVALID_VALUE = re.compile(r"Invalid value '(?P<value>[a-z_]+)'")
_PART = re.compile(r"(?P<part>.*\.content\[\d+\])\.type")
_ROLE = re.compile(r"messages\[\d+\]\.role")
_DEPRECATED = re.compile(r"functions|function_call|messages\[\d+\]\.function_call")
_CUSTOM = re.compile(r"tools\[\d+\]\.type|tool_choice(\.allowed_tools\.tools\[\d+\])?\.type|.*tool_calls\[\d+\]\.type")


def explain(error: InvalidRequestError) -> InvalidRequestError:
    """The same refusal, with what to do instead where that is known."""
    param, message = error.param or "", str(error)
    found = _INVALID_VALUE.search(message)
    value = found["value"] if found else None
    part = _PART.fullmatch(param)
    if part is not None and value in _PARTS:
        return InvalidRequestError(
            f"{part['part']}: {_PARTS[value]} not supported, messages are text ({value!r})", part["part"]
        )
    if _DEPRECATED.fullmatch(param) or (_ROLE.fullmatch(param) and value == "function"):
        return InvalidRequestError(f"{param}: functions have been replaced by tools; {_USE_TOOLS}", param)
    if _CUSTOM.fullmatch(param) and value == "custom":
        return InvalidRequestError(f"{param}: custom tools are not supported, only functions are", param)
    return error
