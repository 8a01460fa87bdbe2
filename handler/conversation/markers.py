"""What models write around their tool calls."""

from __future__ import annotations

from handler.engine.tool_syntax import ToolSyntax

HERMES_OPEN, HERMES_CLOSE = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
MISTRAL_OPEN, MISTRAL_ID, MISTRAL_ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"

MARKERS: dict[ToolSyntax, tuple[str, ...]] = {
    ToolSyntax.HERMES: (HERMES_OPEN, HERMES_CLOSE),
    ToolSyntax.LLAMA: (PYTHON_TAG,),
    ToolSyntax.MISTRAL_LIST: (MISTRAL_OPEN,),
    ToolSyntax.MISTRAL_NAMED: (MISTRAL_OPEN, MISTRAL_ID, MISTRAL_ARGUMENTS),
}
"""The one that opens a call first. Each may be a special token of the model, or plain text."""
