"""Every error that Pilotlight raises on purpose. Knows no HTTP: `app.py` maps the leaves to status codes.

PilotlightError
├── ConfigurationError          a setting or a command line that cannot work; names its key
├── SnapshotError               a model that cannot be prepared or loaded
│   ├── SnapshotNotFoundError
│   ├── CorruptSnapshotError
│   └── UnsupportedModelError   an architecture, activation or rope type outside the decoder's list
├── SpoolError                  a record could not be kept on disk
├── RequestError                the client's to mend; names the field in `param`
│   ├── InvalidRequestError
│   ├── ContextLengthError      prompt and completion do not fit the model
│   ├── UnknownModelError
│   ├── NotStoredError          asks for something that an earlier request made
│   ├── AuthenticationError
│   ├── BodyTooLargeError
│   ├── HeadTooLargeError
│   ├── RequestTimeoutError     its body, or its head, took too long to arrive
│   └── UnsupportedMediaTypeError
├── UnavailableError            try again later; may say when in `retry_after_s`
│   ├── OverloadedError
│   ├── RateLimitError
│   ├── StartingError
│   └── StoppingError
├── DeadlineExceededError       REQUEST_TIMEOUT ran out, or QUEUE_TIMEOUT
├── ClientDisconnectedError     nobody is left to answer
└── EngineError                 the engine failed while it worked on the request
    ├── NothingLeftError        what the request rules out leaves no token to go on with
    ├── EngineLostError         the engine is gone for good: another instance must answer
    └── UpstreamError           the remote server that generates in its place
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST_MESSAGE = 1000
_LONGEST_PARAM = 200


def shortened(text: str, length: int) -> str:
    """The text, with dots in place of its middle where it is longer than that."""
    if len(text) <= length:
        return text
    half = (length - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


class PilotlightError(Exception):
    """Base of all errors raised on purpose. `str(error)` is fit for a user's eyes."""


class ConfigurationError(PilotlightError):
    """A setting that cannot work. `key` is the environment variable or the command line argument at fault."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


class SnapshotError(PilotlightError):
    """A model could not be prepared or loaded."""


class SnapshotNotFoundError(SnapshotError):
    """The named model has not been prepared, and cannot be found."""


class CorruptSnapshotError(SnapshotError):
    """A file of a snapshot is missing, truncated or does not match its manifest."""


class UnsupportedModelError(SnapshotError):
    """The model needs something that the decoder does not implement."""

    def __init__(self, what: str, found: object, known: Iterable[str]) -> None:
        super().__init__(f"unsupported {what} {found!r}; known: {', '.join(sorted(known))}")
        self.what = what


class SpoolError(PilotlightError):
    """A record could not be written to the spool, or a spool directory cannot be used."""


class RequestError(PilotlightError):
    """A request that the client must change. `param` is the field's path as OpenAI writes it, `code` its slug.

    Both texts may repeat what the client wrote there; so they have an end.
    """

    code: str | None = None

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(shortened(message, _LONGEST_MESSAGE))
        self.param = None if param is None else shortened(param, _LONGEST_PARAM)


class InvalidRequestError(RequestError):
    """Malformed JSON, a wrong type, a value out of range, an unknown or unsupported field."""


class ContextLengthError(RequestError):
    """The prompt, or prompt plus completion, is longer than the model's context."""

    code = "context_length_exceeded"


class UnknownModelError(RequestError):
    """The request names a model that is not served here."""

    code = "model_not_found"


class NotStoredError(RequestError):
    """The request asks for something kept of an earlier one; nothing is."""

    code = "not_found"


class AuthenticationError(RequestError):
    """No API key, or one that is not known."""

    code = "invalid_api_key"


class BodyTooLargeError(RequestError):
    """The body exceeds MAX_BODY_BYTES."""

    code = "body_too_large"


class HeadTooLargeError(RequestError):
    """Request line and headers are longer than any that are meant."""

    code = "head_too_large"


class RequestTimeoutError(RequestError):
    """The request did not arrive within BODY_TIMEOUT."""

    code = "request_timeout"


class UnsupportedMediaTypeError(RequestError):
    """The body is declared as something other than JSON."""

    code = "unsupported_media_type"


class UnavailableError(PilotlightError):
    """The request is good, the moment is not. `retry_after_s` is None where no estimate exists."""

    code: str | None = None

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(UnavailableError):
    """More waits than may, or the wait would be too long."""

    code = "overloaded"


class RateLimitError(UnavailableError):
    """The key has had its requests or tokens of this minute."""

    code = "rate_limit_exceeded"


class StartingError(UnavailableError):
    """The engine is not ready, and no more requests may wait for it."""

    code = "starting"


class StoppingError(UnavailableError):
    """The function is draining and takes no new requests."""

    code = "stopping"


class DeadlineExceededError(PilotlightError):
    """The request ran longer than REQUEST_TIMEOUT, or waited longer than QUEUE_TIMEOUT."""


class ClientDisconnectedError(PilotlightError):
    """The client left before its answer was complete."""


class EngineError(PilotlightError):
    """The engine failed while it worked on the request."""


class NothingLeftError(EngineError):
    """No token can follow what the request has banned, or what its grammar has come to: the client's to mend."""


class EngineLostError(EngineError):
    """The engine can compute nothing any more. The request is good; another instance may answer it."""

    code = "engine_lost"
    retry_after_s = 1.0


class UpstreamError(EngineError):
    """The server at ENGINE_URL cannot be reached, has answered with an error, or has not ended its answer."""

    code = "upstream_failed"
    retry_after_s = 1.0
