"""Log probabilities as text completions report them: parallel lists, with each token's place in the answer's text."""

from __future__ import annotations

from collections.abc import Iterable

from handler.engine.events import TokenLogprob
from handler.engine.tokenizer import TextStream, Tokenizer
from handler.formats.format import Echo
from handler.schema.text import CompletionLogprobs


class LogprobLists:
    """Writes the lists of one choice, piece by piece.

    Args:
        tokenizer: tells the tokens' texts.
        prompt: the tokens before the completion.
        echo: the prompt's text, where the answer begins with it.
        skip_special_tokens: as the completion's text was made.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: list[int], echo: Echo | None, *, skip_special_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._echo = echo
        self._offset = 0 if echo is None else len(echo.text)
        self._stream = TextStream(tokenizer, prompt, skip_special_tokens=skip_special_tokens)

    def prompt(self, entries: Iterable[TokenLogprob]) -> CompletionLogprobs:
        """The prompt's tokens; the first has nothing before it that could make it likely."""
        assert self._echo is not None
        entries = list(entries)
        return CompletionLogprobs(
            tokens=[self._text(token) for token in self._prompt],
            token_logprobs=[None, *(entry.logprob for entry in entries)],
            top_logprobs=[None, *map(self._top, entries)],
            text_offset=self._echo.starts,
        )

    def completion(self, entries: Iterable[TokenLogprob]) -> CompletionLogprobs:
        """The next tokens of the completion. A token begins where the text ends that is certain before it."""
        entries = list(entries)
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._stream.push(entry.token_id))
        return CompletionLogprobs(
            tokens=[self._text(entry.token_id) for entry in entries],
            token_logprobs=[entry.logprob for entry in entries],
            top_logprobs=[self._top(entry) for entry in entries],
            text_offset=offsets,
        )

    def _top(self, entry: TokenLogprob) -> dict[str, float]:
        """By text, the likelier one where two tokens look the same; the token itself is always among them."""
        top: dict[str, float] = {}
        for token, logprob in (*entry.top, (entry.token_id, entry.logprob)):
            top.setdefault(self._text(token), logprob)
        return top

    def _text(self, token_id: int) -> str:
        return self._tokenizer.token_bytes(token_id).decode(errors="replace")


def joined(first: CompletionLogprobs, second: CompletionLogprobs | None) -> CompletionLogprobs:
    """Two pieces of a choice as one."""
    if second is None:
        return first
    return CompletionLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )
