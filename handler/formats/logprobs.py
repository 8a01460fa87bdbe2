"""Log probabilities as chats and responses report them: with each token's text and bytes."""

from __future__ import annotations

from handler.engine.events import TokenLogprob
from handler.engine.tokenizer import Tokenizer
from handler.schema.chat import ContentLogprob, TopLogprob


def content_logprobs(entries: list[TokenLogprob], tokenizer: Tokenizer) -> list[ContentLogprob]:
    """One entry per token. A token that is no whole character has U+FFFD in its text."""
    return [_content_logprob(entry, tokenizer) for entry in entries]


def _content_logprob(entry: TokenLogprob, tokenizer: Tokenizer) -> ContentLogprob:
    top = [TopLogprob(*_named(token, logprob, tokenizer)) for token, logprob in entry.top]
    return ContentLogprob(*_named(entry.token_id, entry.logprob, tokenizer), top)


def _named(token_id: int, logprob: float, tokenizer: Tokenizer) -> tuple[str, float, list[int]]:
    token = tokenizer.token_bytes(token_id)
    return token.decode(errors="replace"), logprob, list(token)
