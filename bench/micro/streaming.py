"""What a streamed answer is written with: one frame for each token."""

from __future__ import annotations

from collections.abc import Callable

from handler.schema.usage import PromptTokensDetails, Usage
from handler.sse import DONE, ChunkFrames

NUM_TOKENS = 64
_WORDS = (" moon", " l\u00e4uft", ' "so"', "\n", " \u6708", ",", " \U0001f319", " round")
TEXTS = tuple(_WORDS[number % len(_WORDS)] for number in range(NUM_TOKENS))
"""Most tokens are words; some have characters that JSON or UTF-8 write longer."""

_HEAD: dict[str, str | int] = {
    "id": "chatcmpl-0190163d8694739b87b0e5c4f1a2d3e4",
    "object": "chat.completion.chunk",
    "created": 1_790_000_000,
    "model": "smollm2-135m",
    "system_fingerprint": "fp_0123456789",
}
_USAGE = Usage(200, NUM_TOKENS, 200 + NUM_TOKENS, PromptTokensDetails(0))


def sse() -> Callable[[], bytes]:
    """All frames of one answer, as the chat endpoint writes them."""

    def write() -> bytes:
        frames = ChunkFrames(_HEAD, content_key=b'"delta":{"content":', content_end=b"}", with_usage=True)
        parts = [frames.choice(0, b'"delta":{"role":"assistant","content":""}')]
        parts += [frames.text(0, text, None) for text in TEXTS]
        parts += [frames.choice(0, b'"delta":{}', finish_reason="length"), frames.usage(_USAGE), DONE]
        return b"".join(parts)

    return write
