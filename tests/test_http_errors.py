from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from handler.errors import (
    AuthenticationError,
    ClientDisconnectedError,
    ConfigurationError,
    ContextLengthError,
    EngineError,
    EngineLostError,
    InvalidRequestError,
    NothingLeftError,
    OverloadedError,
    PilotlightError,
    RateLimitError,
    RequestError,
    SnapshotError,
    SpoolError,
    UnavailableError,
    UpstreamError,
)
from handler.http_errors import ERROR_TABLE, error_body, error_headers, http_error
from handler.schema.codec import encode_json

# Raised while the process starts, while a record is kept, or where nobody is left to answer: never a response.
NEVER_ANSWERED = (ConfigurationError, SnapshotError, SpoolError, ClientDisconnectedError)


def leaves(base: type[PilotlightError]) -> Iterator[type[PilotlightError]]:
    children = base.__subclasses__()
    if not children:
        yield base
    for child in children:
        yield from leaves(child)


def test_every_leaf_that_a_request_can_raise_has_exactly_one_entry() -> None:
    answered = {kind for kind in leaves(PilotlightError) if not issubclass(kind, NEVER_ANSWERED)}
    assert set(ERROR_TABLE) == answered | {EngineError}  # which is raised itself where nothing more is known


@pytest.mark.parametrize("kind", ERROR_TABLE)
def test_an_error_has_openais_body(kind: type[PilotlightError]) -> None:
    error = kind("what happened", "field") if issubclass(kind, RequestError) else kind("what happened")
    detail = msgspec.json.decode(encode_json(error_body(error)))["error"]
    assert set(detail) == {"message", "type", "param", "code"}
    assert detail["message"] == "what happened"
    assert detail["type"] == ERROR_TABLE[kind].type
    assert detail["param"] == ("field" if issubclass(kind, RequestError) else None)
    assert detail["code"] == (
        kind.code if issubclass(kind, RequestError | UnavailableError | EngineLostError | UpstreamError) else None
    )
    assert 400 <= http_error(error).status < 600


def test_the_clients_errors_are_4xx_and_ours_5xx_but_for_what_is_used_up() -> None:
    for kind, entry in ERROR_TABLE.items():
        is_clients = issubclass(kind, RequestError) or kind in {OverloadedError, RateLimitError, NothingLeftError}
        assert (entry.status < 500) == is_clients, kind


def test_an_error_outside_the_table_is_an_internal_one() -> None:
    assert http_error(ConfigurationError("PORT", "bad")).status == 500


def test_headers_say_when_to_come_back_and_how_to_authenticate() -> None:
    assert error_headers(OverloadedError("full", 1.2)) == {"retry-after": "2"}
    assert error_headers(OverloadedError("full")) == {}
    assert error_headers(AuthenticationError("who")) == {"www-authenticate": "Bearer"}
    assert error_headers(InvalidRequestError("bad")) == {}
    assert error_headers(EngineLostError("gone")) == {"retry-after": "1"}
    assert error_headers(UpstreamError("away")) == {"retry-after": "1"}


def test_codes_are_openais() -> None:
    assert error_body(ContextLengthError("long", "messages")).error.code == "context_length_exceeded"
    assert error_body(EngineError("broke")).error.code is None
