"""From sampled tokens to token events: text, stop conditions, finish reason. One per sequence, engine thread only."""

from __future__ import annotations

from handler.engine.tokenizer import StopMatcher, TextStream, Tokenizer
from handler.engine.types import FinishReason, SampledToken, Sequence, TokenEvent


class SequenceOutput:
    """Follows one sequence and says when it ends."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer, end_token_ids: frozenset[int]) -> None:
        params = sequence.params
        self._sequence = sequence
        self._text = TextStream(tokenizer, sequence.tokens)
        self._stops = StopMatcher(params.stop)
        self._end_token_ids = frozenset() if params.ignore_eos else end_token_ids
        self._stop_token_ids = frozenset(params.stop_token_ids)

    def accept(self, sampled: SampledToken) -> TokenEvent:
        """Append the token to the sequence and describe what that yielded."""
        sequence, token = self._sequence, sampled.token_id
        sequence.tokens.append(token)
        text = ""
        finish: FinishReason | None = None
        stop_reason: str | int | None = None
        if token in self._stop_token_ids or token in self._end_token_ids:
            finish = FinishReason.STOP
            stop_reason = token if token in self._stop_token_ids else None
        else:
            text, stop_reason = self._match(self._text.push(token))
            if stop_reason is not None:
                finish = FinishReason.STOP
            elif sequence.num_output_tokens >= sequence.params.max_tokens:
                finish = FinishReason.LENGTH
        if finish is not None and not isinstance(stop_reason, str):
            rest, late_stop = self._match(self._text.flush())
            text += rest + self._stops.flush()
            if late_stop is not None:
                finish, stop_reason = FinishReason.STOP, late_stop
        return TokenEvent(
            text=text,
            token_ids=(token,),
            logprobs=None if sampled.logprob is None else (sampled.logprob,),
            finish_reason=finish,
            stop_reason=stop_reason,
            cached_tokens=sequence.cached_tokens,
            first_scheduled_s=sequence.first_scheduled_s,
        )

    def _match(self, text: str) -> tuple[str, str | None]:
        if self._sequence.num_output_tokens < self._sequence.params.min_tokens:
            return text, None
        return self._stops.push(text)
