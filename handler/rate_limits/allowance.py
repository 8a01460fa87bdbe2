"""One request's share of what its key may have: counted before its body is read, settled when its answer ends.

Tokens are reserved once the prompt's are known: those, and as many as the request allows its completions to have. What
it did not use is given back at the end, what it used beyond (a completion that nobody limited) is counted then. Event
loop only.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from handler.errors import InvalidRequestError, RateLimitError
from handler.rate_limits.window import Bucket, Window

if TYPE_CHECKING:  # it imports what takes 0.1 s, which only those pay who set limits
    from handler.rate_limits.counters import Counters

EVERYBODY = "*"
"""The limit of keys that have none of their own, and of everybody where there are no keys."""
_NAMES = {
    kind: [f"x-ratelimit-{what}-{kind}".encode() for what in ("limit", "remaining", "reset")]
    for kind in ("requests", "tokens")
}
RATE_LIMIT_HEADERS = [name.decode() for names in _NAMES.values() for name in names]
_SAME_PERIOD_S = 1.0

Headers = list[tuple[bytes, bytes]]


class RateLimits:
    """The limits of one function.

    Args:
        counters: where requests and tokens are counted.
        model_name: limits are those of a key for a model, as OpenAI has them, wherever a Redis is shared.
        requests_per_minute: by the key's name; `EVERYBODY` is for all others, and without it they have no limit.
        tokens_per_minute: the same for tokens.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        model_name: str,
        requests_per_minute: Mapping[str, int],
        tokens_per_minute: Mapping[str, int],
    ) -> None:
        self._counters = counters
        self._model_name = quote(model_name, safe="")
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute

    def allowance(self, key_name: str | None) -> Allowance:
        """That of one request."""
        requests = self._find("requests", key_name, self._requests_per_minute)
        return Allowance(self._counters, requests, self._find("tokens", key_name, self._tokens_per_minute))

    async def close(self) -> None:
        """End the connections."""
        await self._counters.close()

    def _find(self, kind: str, key_name: str | None, limits: Mapping[str, int]) -> Bucket | None:
        limit = limits.get(EVERYBODY) if key_name is None else limits.get(key_name, limits.get(EVERYBODY))
        if limit is None:
            return None
        # Without keys all share one bucket: behind a proxy an address says nothing of who calls.
        owner = EVERYBODY if key_name is None else quote(key_name, safe="")
        return Bucket(f"{self._model_name}/{owner}/{kind}", limit)


class Allowance:
    """What one request may have.

    Attributes:
        headers: what its answer says of the limits; known as soon as they have been looked at.
    """

    def __init__(self, counters: Counters, requests: Bucket | None, tokens: Bucket | None) -> None:
        self.headers: Headers = []
        self._counters = counters
        self._requests = requests
        self._tokens = tokens
        self._num_reserved = 0
        self._period_ends_s: float | None = None  # that of the reservation; unknown if it was cut short just then
        self._request_headers: Headers = []

    async def admit(self) -> None:
        """Count the request.

        Raises:
            RateLimitError: the key has no request or no token left in this minute.
        """
        refusal: RateLimitError | None = None
        if self._requests is not None:
            is_in = await self._counters.take(self._requests, 1)
            window = await self._counters.look(self._requests)
            self.headers = self._request_headers = _headers("requests", window)
            refusal = None if is_in else _refusal("requests", window, 1)
        if self._tokens is not None:
            window = await self._look_at_tokens(self._tokens)
            if not window.remaining:
                refusal = refusal or _refusal("tokens", window, 1)
        if refusal is not None:
            raise refusal

    async def reserve(self, num_prompt_tokens: int, num_completion_tokens: int, param: str) -> None:
        """Count tokens that the request is about to use; `param` is the field that says how long completions may get.

        Raises:
            RateLimitError: the key does not have as many left in this minute.
            InvalidRequestError: it never has.
        """
        bucket, amount = self._tokens, num_prompt_tokens + num_completion_tokens
        if bucket is None:
            return
        if amount > bucket.limit:
            raise InvalidRequestError(
                f"The request may use {amount} tokens ({num_prompt_tokens} of the prompt, {num_completion_tokens} by "
                f"{param}); its key may use {bucket.limit} a minute",
                param,
            )
        self._num_reserved += amount  # at once: a request that is cancelled meanwhile has it counted all the same
        is_in = await self._counters.take(bucket, amount)
        if not is_in:
            self._num_reserved -= amount
        window = await self._look_at_tokens(bucket)
        if not is_in:
            raise _refusal("tokens", window, amount)
        self._period_ends_s = _end_s(window)

    async def settle(self, num_used_tokens: int) -> None:
        """Count what was used in place of what was reserved, once; to be called again if it was cancelled."""
        bucket, excess = self._tokens, num_used_tokens - self._num_reserved
        if bucket is None:
            return
        if excess >= 0:
            self._tokens = None
            if excess:
                await self._counters.add(bucket, excess)
            return
        window = await self._counters.look(bucket)
        self._tokens = None
        # What was reserved in an earlier period loses its weight there; this one may not give it back.
        if self._period_ends_s is None or abs(_end_s(window) - self._period_ends_s) < _SAME_PERIOD_S:
            await self._counters.give_back(bucket, -excess)

    async def _look_at_tokens(self, bucket: Bucket) -> Window:
        window = await self._counters.look(bucket)
        self.headers = [*self._request_headers, *_headers("tokens", window)]
        return window


def duration(seconds: float) -> str:
    """A time as OpenAI's headers have it: 20ms, 1s, 6m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _end_s(window: Window) -> float:
    return time.monotonic() + window.current_left_s


def _headers(kind: Literal["requests", "tokens"], window: Window) -> Headers:
    values = (str(window.limit), str(window.remaining), duration(window.reset_s))
    return [(name, value.encode()) for name, value in zip(_NAMES[kind], values, strict=True)]


def _refusal(kind: Literal["requests", "tokens"], window: Window, amount: int) -> RateLimitError:
    return RateLimitError(
        f"The limit of {window.limit} {kind} a minute is reached: {window.remaining} are left, {amount} asked for",
        window.wait_s(amount),
    )
