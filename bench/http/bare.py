"""A bare ASGI response: the floor under everything that runs on uvicorn. Reads nothing, checks nothing."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

_BODY = (
    b'{"id":"chatcmpl-00000000000000000000000000000000","created":1700000000,"model":"stub","choices":[{"index":0,'
    b'"message":{"content":" one","role":"assistant","refusal":null},"logprobs":null,"finish_reason":"length",'
    b'"stop_reason":null}],"usage":{"prompt_tokens":13,"completion_tokens":1,"total_tokens":14,'
    b'"prompt_tokens_details":{"cached_tokens":0}},"object":"chat.completion"}'
)
_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_BODY))]


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """As many bytes as a chat completion of one token has."""
    if scope["type"] == "lifespan":
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _BODY})
