"""Who may call: API keys are compared as digests in constant time, over all keys, whichever matches.

A header that was found good is found again by its digest, which says as little of the key as that of the key itself.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping

from starlette.types import Scope

from handler.errors import AuthenticationError
from handler.keys import digest
from handler.trace import headers, trace_of

_PARTS_OF_PAGES = {"/docs": "/docs/static/"}
"""What a page loads, below the path behind it, is as open as the page."""
_MOST_RECOGNIZED = 256
"""Headers that are found again: a key has few spellings, unless somebody makes them up."""


class Authenticator:
    """Maps a presented key to its name.

    Args:
        digests: of the known keys, by name; none of them lets everybody in.
        keyless_paths: open to everybody, as they are and under no other spelling. Every other path needs a key,
            whether there is something or not.
    """

    def __init__(self, digests: Mapping[str, bytes], keyless_paths: Iterable[str] = ()) -> None:
        self._digests = list(digests.items())
        self._recognized: dict[bytes, str] = {}  # names by the digests of whole headers
        self._keyless_paths = frozenset(keyless_paths)
        self._keyless_prefixes = tuple(_PARTS_OF_PAGES[path] for path in keyless_paths if path in _PARTS_OF_PAGES)

    def needs_key(self, path: str) -> bool:
        """Whether a request to that path needs a key."""
        if not self._digests or path in self._keyless_paths:
            return False
        return not path.startswith(self._keyless_prefixes)

    def admit(self, scope: Scope) -> None:
        """Note the name of a request's key in its trace, where it needs one.

        Raises:
            AuthenticationError: no key, or an unknown one.
        """
        if self._digests and self.needs_key(scope["path"]):
            given = headers(scope).get(b"authorization")
            trace_of(scope).api_key_id = self.identify(None if given is None else given.decode("latin-1"))

    def identify(self, authorization: str | None) -> str | None:
        """The name of the key in an Authorization header; None where no keys are set and everybody may call.

        Raises:
            AuthenticationError: no key, or an unknown one.
        """
        if not self._digests:
            return None
        whole = digest(authorization or "")
        name = self._recognized.get(whole)
        if name is None:
            name = self._find(authorization or "")
            if len(self._recognized) < _MOST_RECOGNIZED:
                self._recognized[whole] = name
        return name

    def _find(self, authorization: str) -> str:
        scheme, _, presented = authorization.partition(" ")
        if not presented or (scheme != "Bearer" and scheme.lower() != "bearer"):
            raise AuthenticationError("No API key was given; send it as 'Authorization: Bearer KEY'")
        presented_digest = digest(presented.strip())
        matches = [name for name, known in self._digests if hmac.compare_digest(presented_digest, known)]
        if not matches:
            raise AuthenticationError("The API key is not known")
        return matches[0]
