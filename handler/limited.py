"""Endpoints whose requests and tokens are counted against their key's limits. Event loop only."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from handler.rate_limits.allowance import RateLimits
from handler.trace import trace_of


class RateLimited:
    """An endpoint behind limits."""

    def __init__(self, app: ASGIApp, limits: RateLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, if its key has one left; it is counted before its body is read."""
        trace = trace_of(scope)
        allowance = trace.allowance = self._limits.allowance(trace.api_key_id)

        async def send_settled(message: Message) -> None:
            # Before the last byte: the client's next request is to find what this one has left over.
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                await allowance.settle(trace.num_used_tokens)
            await send(message)

        try:
            await allowance.admit()
            await self._app(scope, receive, send_settled)
        finally:
            await allowance.settle(trace.num_used_tokens)
