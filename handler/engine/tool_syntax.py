"""How a model writes tool calls, told by what its own chat template renders. Knows no request."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from typing import Any

from handler.errors import InvalidRequestError

RenderProbe = Callable[[list[dict[str, Any]], list[dict[str, Any]]], str]


class ToolSyntax(enum.Enum):
    """Forms in which models write calls."""

    HERMES = "hermes"
    """`<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, one after the other: Hermes, Qwen, Granite 4."""
    LLAMA = "llama"
    """`{"name": ..., "parameters": {...}}` as the whole answer, sometimes after `<|python_tag|>`: Llama 3."""
    MISTRAL_LIST = "mistral-list"
    """`[TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]`: Mistral's tokenizers v3 to v7."""
    MISTRAL_NAMED = "mistral-named"
    """`[TOOL_CALLS]name[ARGS]{...}`, one after the other: Mistral's tokenizers from v11 on."""


_NAME, _DESCRIPTION, _CALL_ID = "probe_tool", "Probes the template.", "a1B2c3D4e"
_TOOL = {
    "type": "function",
    "function": {
        "name": _NAME,
        "description": _DESCRIPTION,
        "parameters": {"type": "object", "properties": {"probe": {"type": "integer", "description": "A number."}}},
    },
}
_CALL = {"id": _CALL_ID, "type": "function", "function": {"name": _NAME, "arguments": {"probe": 1}}}
_CONVERSATION: list[dict[str, Any]] = [
    {"role": "user", "content": "Probe."},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "1", "tool_call_id": _CALL_ID, "name": _NAME},
]

_ARGUMENTS = r'\{\s*"probe"\s*:\s*1\s*\}'
_WRITTEN = {
    ToolSyntax.HERMES: (
        rf'<tool_call>\s*\{{\s*("name"\s*:\s*"{_NAME}"\s*,\s*"arguments"\s*:\s*{_ARGUMENTS}'
        rf'|"arguments"\s*:\s*{_ARGUMENTS}\s*,\s*"name"\s*:\s*"{_NAME}")\s*\}}\s*</tool_call>'
    ),
    ToolSyntax.MISTRAL_LIST: (
        rf'\[TOOL_CALLS\]\s*\[\s*\{{\s*"name"\s*:\s*"{_NAME}"\s*,\s*"arguments"\s*:\s*{_ARGUMENTS}'
    ),
    ToolSyntax.MISTRAL_NAMED: rf"\[TOOL_CALLS\]\s*{_NAME}(\[CALL_ID\]{_CALL_ID})?\[ARGS\]\s*{_ARGUMENTS}",
    # What stands before it is the end of the message's head: nothing else announces the call.
    ToolSyntax.LLAMA: (
        rf'(<\|(end_header_id|header_end)\|>\s*|<\|python_tag\|>)\{{"name"\s*:\s*"{_NAME}"\s*,'
        rf'\s*"parameters"\s*:\s*{_ARGUMENTS}\s*\}}'
    ),
}


def detect_tool_syntax(render: RenderProbe) -> ToolSyntax | None:
    """The form in which a template writes calls; None if it shows no tools, or writes calls in an unknown form."""
    try:
        rendered = render(_CONVERSATION, [_TOOL])
    except InvalidRequestError:
        return None
    if _DESCRIPTION not in rendered:
        return None
    return next((syntax for syntax, written in _WRITTEN.items() if re.search(written, rendered)), None)


def knows_system_role(render: RenderProbe) -> bool:
    """Whether a system message stands in what the template renders."""
    try:
        rendered = render([{"role": "system", "content": _DESCRIPTION}, {"role": "user", "content": "Probe."}], [])
    except InvalidRequestError:
        return False
    return _DESCRIPTION in rendered
