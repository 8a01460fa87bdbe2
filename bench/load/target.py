"""Where a load goes: the parts of a URL, and the bytes of a request to it. Connects only to ask for a model."""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import msgspec
import orjson

from bench.errors import BenchError
from bench.workload import Question

_ASK_S = 10.0


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A server that speaks OpenAI's API.

    Attributes:
        host: name or address.
        port: TCP port.
        is_tls: whether it speaks https.
        base_path: what comes before `/v1`, without a slash at its end.
    """

    host: str
    port: int
    is_tls: bool
    base_path: str


def parse_target(url: str) -> Target:
    """The parts of `http://host:port`, with or without `/v1` behind it.

    Raises:
        BenchError: it is no such URL.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as error:
        raise BenchError(f"url: {url!r}: {error}") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise BenchError(f"url: {url!r} is none such as http://127.0.0.1:8000")
    if parts.query or parts.fragment or parts.username is not None:
        raise BenchError("url: must have no query, no fragment and no user; keys are given by --api-key")
    is_tls = parts.scheme == "https"
    if port is None:
        port = 443 if is_tls else 80
    path = parts.path.rstrip("/").removesuffix("/v1")
    return Target(host=parts.hostname, port=port, is_tls=is_tls, base_path=path)


class ChatRequests:
    """Makes requests for chat completions, the part that they share once.

    Args:
        target: whom to ask.
        model: its name there.
        api_key: None sends no key.
        stream: whether the answer comes as events.
        extra: fields that are added or replaced.
    """

    def __init__(self, target: Target, *, model: str, api_key: str | None, stream: bool, extra: dict[str, Any]) -> None:
        self._body = {"model": model, "temperature": 0.0, "stream": stream}
        if stream:
            self._body["stream_options"] = {"include_usage": True}
        self._extra = extra
        host = f"[{target.host}]" if ":" in target.host else target.host
        self._head = (
            f"POST {target.base_path}/v1/chat/completions HTTP/1.1\r\nhost: {host}:{target.port}\r\n"
            f"content-type: application/json\r\n{_authorization(api_key)}content-length: "
        ).encode()

    def request(self, question: Question) -> bytes:
        """Head and body."""
        messages = [{"role": "user", "content": question.prompt}]
        body = orjson.dumps({**self._body, "messages": messages, "max_tokens": question.max_tokens, **self._extra})
        return b"%b%d\r\n\r\n%b" % (self._head, len(body), body)


def first_model(target: Target, api_key: str | None) -> str:
    """The first that the server lists.

    Raises:
        BenchError: it cannot be asked, or lists none.
    """
    connection_class = http.client.HTTPSConnection if target.is_tls else http.client.HTTPConnection
    connection = connection_class(target.host, target.port, timeout=_ASK_S)
    where = f"model: {target.host}:{target.port} was asked for its models, but"
    headers = {"authorization": f"Bearer {api_key}"} if api_key is not None else {}
    try:
        connection.request("GET", f"{target.base_path}/v1/models", headers=headers)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchError(f"{where} {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise BenchError(f"{where} answered with {response.status}: {body[:300].decode(errors='replace')}")
    try:
        return str(json.loads(body)["data"][0]["id"])
    except (ValueError, LookupError, TypeError) as error:
        raise BenchError(f"{where} its answer names none: {body[:300].decode(errors='replace')}") from error


def _authorization(api_key: str | None) -> str:
    if api_key is None:
        return ""
    if not api_key.isascii() or not api_key.isprintable():
        raise BenchError("api_key: cannot be sent in a header")
    return f"authorization: Bearer {api_key}\r\n"
