"""From sampled tokens to token events: text, stop conditions, finish reason. One per sequence, engine thread only."""

from __future__ import annotations

from handler.engine.events import FinishReason, TokenEvent, TokenLogprob
from handler.engine.sequence import Sequence
from handler.engine.step import SampledToken
from handler.engine.tokenizer import StopMatcher, TextStream, Tokenizer
from handler.errors import EngineError


class SequenceOutput:
    """Follows one sequence and says when it ends."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer, end_token_ids: frozenset[int]) -> None:
        params = sequence.params
        self._sequence = sequence
        self._text = TextStream(
            tokenizer,
            sequence.tokens,
            params.shown_token_ids,
            skip_special_tokens=params.skip_special_tokens,
        )
        self._stops = StopMatcher(params.stop, include=params.include_stop)
        self._prompt_logprobs: list[TokenLogprob] | None = None if params.prompt_logprobs is None else []
        self._end_token_ids = frozenset() if params.ignore_eos else end_token_ids
        self._stop_token_ids = frozenset(params.stop_token_ids)

    def keep_prompt_logprobs(self, entries: list[TokenLogprob]) -> None:
        """Take in the next of the prompt's tokens; they go out with the first event."""
        assert self._prompt_logprobs is not None
        self._prompt_logprobs += entries
        self._sequence.num_scored_rows += len(entries)

    def accept(self, sampled: list[SampledToken]) -> TokenEvent:
        """Append a step's tokens to the sequence, up to the one that ends it, and describe what that yielded."""
        text = ""
        kept: list[SampledToken] = []
        finish: FinishReason | None = None
        stop_reason: str | int | None = None
        if self._sequence.params.max_tokens == 0:
            # Nobody asks for the token that comes next; that there are no numbers behind it still counts.
            sampled = [one for one in sampled if one.error is not None and type(one.error) is EngineError]
            finish = FinishReason.LENGTH
        error: EngineError | None = None
        for one in sampled:
            if one.error is not None:
                text += self._rest()[0]
                finish, error = FinishReason.ERROR, one.error
                break
            kept.append(one)
            new, finish, stop_reason = self._take(one.token_id)
            text += new
            if finish is not None:
                break
        prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        return TokenEvent(
            text=text,
            token_ids=tuple(one.token_id for one in kept),
            logprobs=tuple(one.logprob for one in kept if one.logprob is not None) or None,
            prompt_logprobs=None if prompt_logprobs is None else tuple(prompt_logprobs),
            finish_reason=finish,
            stop_reason=stop_reason,
            cached_tokens=self._sequence.cached_tokens,
            first_scheduled_s=self._sequence.first_scheduled_s,
            error=error,
        )

    def _take(self, token: int) -> tuple[str, FinishReason | None, str | int | None]:
        """Append one token: the text that is certain with it, and whether and why it ends the sequence."""
        sequence = self._sequence
        sequence.tokens.append(token)
        text = ""
        finish: FinishReason | None = None
        stop_reason: str | int | None = None
        if token in self._stop_token_ids or token in self._end_token_ids:
            finish = FinishReason.STOP
            stop_reason = token if token in self._stop_token_ids else None
            if sequence.params.include_stop:
                text, _ = self._match(self._text.push(token))
        else:
            text, stop_reason = self._match(self._text.push(token))
            if stop_reason is not None:
                finish = FinishReason.STOP
            elif sequence.num_output_tokens >= sequence.params.max_tokens:
                finish = FinishReason.LENGTH
        if finish is not None and not isinstance(stop_reason, str):
            rest, late_stop = self._rest()
            text += rest
            if late_stop is not None:
                finish, stop_reason = FinishReason.STOP, late_stop
        return text, finish, stop_reason

    def _rest(self) -> tuple[str, str | None]:
        """What was held back, and the stop string that it completes, if any."""
        rest, stop = self._match(self._text.flush())
        return rest + self._stops.flush(), stop

    def _match(self, text: str) -> tuple[str, str | None]:
        sequence = self._sequence
        return self._stops.push(text, may_stop=sequence.num_output_tokens >= sequence.params.min_tokens)
