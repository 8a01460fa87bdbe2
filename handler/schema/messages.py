"""Messages of a conversation as they come in."""

from __future__ import annotations

from typing import Literal

import msgspec


class TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text part of a message. `type` is no tag: a type that stands alone is decoded without its tag as well."""

    type: Literal["text"]
    text: str


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a conversation. `developer` is what `system` is called for newer models."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    # Clients send an answer's message back as it came, empty fields included.
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None

    def for_template(self) -> dict[str, str]:
        """The message as chat templates know it: string content, and no role that they have never heard of."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        message = {"role": "system" if self.role == "developer" else self.role, "content": content}
        return message if self.name is None else message | {"name": self.name}
