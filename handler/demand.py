"""What a request is likely to cost in tokens, before anything is tokenized. Event loop only.

Texts are judged by the size of their body, and completions by those of requests that asked for about as much: most
clients name no limit, or one that few answers reach, so a limit alone would say little. Both are learnt from what has
been served.
"""

from __future__ import annotations

import msgspec

_BYTES_PER_TOKEN = 4.0
"""Of English text, until long prompts have been tokenized."""
_TELLING_BYTES = 4096
"""Of smaller bodies much is JSON and template: they say nothing of long ones, and cost too little to matter."""
_UNKNOWN_COMPLETION_TOKENS = 256
"""Expected of a completion that has no limit, before any has ended."""
_SMOOTHING = 0.1


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What one request asks for, as far as its fields say.

    Attributes:
        prompts: that it has.
        completions: of each prompt.
        param: the field that asks for so many sequences.
        prompt_tokens: of all prompts together where they came as tokens, None where they are text.
        max_tokens: of each completion, None where the request sets no limit.
        priority: lower ones go first.
    """

    prompts: int = 1
    completions: int = 1
    param: str
    prompt_tokens: int | None = None
    max_tokens: int | None = None
    priority: int = 0


class Expectations:
    """Learns how many tokens requests come to.

    Args:
        default_max_tokens: limit of requests that set none; None where nothing but the model's context limits them.
    """

    def __init__(self, default_max_tokens: int | None) -> None:
        self._default_max_tokens = default_max_tokens
        self._bytes_per_token = _BYTES_PER_TOKEN
        self._completion_tokens: dict[int, float] = {}

    def prompt_tokens(self, demand: Demand, body_bytes: int) -> float:
        """Of all prompts of a body together."""
        return body_bytes / self._bytes_per_token if demand.prompt_tokens is None else demand.prompt_tokens

    def completion_tokens(self, demand: Demand) -> float:
        """Of one completion."""
        max_tokens = demand.max_tokens
        limit = self._default_max_tokens if max_tokens is None else max_tokens
        known = self._completion_tokens.get(_kind(max_tokens))
        if known is None:
            return _UNKNOWN_COMPLETION_TOKENS if limit is None else limit
        return known if limit is None or known < limit else limit

    def learn_prompt(self, demand: Demand, body_bytes: int, prompt_tokens: int) -> None:
        """Take in how many tokens the prompts of a body have."""
        if body_bytes >= _TELLING_BYTES and prompt_tokens and demand.prompt_tokens is None:
            self._bytes_per_token += _SMOOTHING * (body_bytes / prompt_tokens - self._bytes_per_token)

    def learn_completion(self, demand: Demand, tokens: float) -> None:
        """Take in how many tokens the completions of a request have on average, which ended by themselves."""
        kind = _kind(demand.max_tokens)
        known = self._completion_tokens.get(kind)
        if known != tokens:
            self._completion_tokens[kind] = tokens if known is None else known + _SMOOTHING * (tokens - known)


def _kind(max_tokens: int | None) -> int:
    """Requests are of one kind whose limits lie between the same powers of two, or who have none."""
    return -1 if max_tokens is None else max_tokens.bit_length()
