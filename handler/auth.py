"""API keys: who may call. Keys are compared as digests in constant time, over all keys, whichever matches."""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from handler.errors import AuthenticationError
from handler.trace import header, trace_of


class Authenticator:
    """Maps a presented key to its name."""

    def __init__(self, keys: dict[str, str]) -> None:
        self._digests = [(name, _digest(key)) for name, key in keys.items()]

    def admit(self, scope: Scope) -> None:
        """Note the name of a request's key in its trace.

        Raises:
            AuthenticationError: no key, or an unknown one.
        """
        if self._digests:
            trace_of(scope).api_key_id = self.identify(header(scope, b"authorization"))

    def identify(self, authorization: str | None) -> str | None:
        """The name of the key in an Authorization header; None where no keys are set and everybody may call.

        Raises:
            AuthenticationError: no key, or an unknown one.
        """
        if not self._digests:
            return None
        scheme, _, presented = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not presented:
            raise AuthenticationError("No API key was given; send it as 'Authorization: Bearer KEY'")
        digest = _digest(presented.strip())
        matches = [name for name, known in self._digests if hmac.compare_digest(digest, known)]
        if not matches:
            raise AuthenticationError("The API key is not known")
        return matches[0]


class AuthMiddleware:
    """Lets a request through to `app` when its key is known."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the key, then pass the request on."""
        self._authenticator.admit(scope)
        await self._app(scope, receive, send)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
