"""What the clients of a soak ask: good and bad requests of every kind, and when a client leaves. Pure, by seed."""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import Any

import msgspec

from bench.workload import story_prompt

API_KEY = "sk-soak"
MAX_BODY_BYTES = 64 * 1024

OK = frozenset({200})
_BAD = frozenset({400})


class Departure(enum.StrEnum):
    """The moment at which a client leaves before it has its whole answer."""

    IN_HEAD = "in head"
    IN_BODY = "in body"
    AFTER_SENDING = "after sending"
    IN_ANSWER = "in answer"
    UNREAD = "without reading"


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request.

    Attributes:
        kind: what it is, in words, for the sheet.
        path: where to.
        body: of the POST.
        expected: the statuses that are right answers, beside those of a server that has no room.
        is_stream: whether a good answer is a stream of events.
        departure: when the client leaves; None: it waits for the whole answer.
        headers: beside the usual ones, and instead of them.
    """

    kind: str
    path: str
    body: bytes
    expected: frozenset[int]
    is_stream: bool = False
    departure: Departure | None = None
    headers: dict[str, str] = {}


class Asks:
    """An endless row of requests, the same for the same seed."""

    def __init__(self, model: str, seed: str) -> None:
        self._model = model
        self._seed = seed
        self._number = 0
        self._random = random.Random(seed)  # noqa: S311  (a repeatable choice, not a secret)

    def next(self) -> Ask:
        """The next request: two of three are good, and every fourth of those is left alone by its client."""
        self._number += 1
        (make,) = self._random.choices(list(_KINDS), weights=list(_KINDS.values()))
        ask = make(self)
        if ask.expected == OK and self._random.random() < 0.25:
            return msgspec.structs.replace(ask, departure=self._random.choice(list(Departure)))
        return ask

    def chat(self) -> Ask:
        """A whole chat completion."""
        return self._ask("chat", "/v1/chat/completions", self._chat_body())

    def chat_stream(self) -> Ask:
        """A streamed one."""
        return self._ask("chat stream", "/v1/chat/completions", self._chat_body() | {"stream": True}, is_stream=True)

    def text_stream(self) -> Ask:
        """A streamed text completion of several choices."""
        body = {"prompt": self._prompt(), "n": self._random.randint(1, 3), **self._limits()}
        return self._ask("text stream", "/v1/completions", body | {"stream": True}, is_stream=True)

    def response_stream(self) -> Ask:
        """A streamed response of the Responses API."""
        body = {"input": self._prompt(), "stream": True, "max_output_tokens": self._limits()["max_tokens"]}
        return self._ask("response stream", "/v1/responses", body, is_stream=True)

    def structured(self) -> Ask:
        """A completion that has to be one of two words."""
        body = self._chat_body() | {"guided_choice": ["yes", "no"]}
        return self._ask("structured", "/v1/chat/completions", body)

    def tokens(self) -> Ask:
        """A text's tokens, without the engine."""
        return self._ask("tokenize", "/tokenize", {"prompt": self._prompt()})

    def broken_json(self) -> Ask:
        """A body that breaks off."""
        return self._raw("broken JSON", msgspec.json.encode(self._chat_body())[:-3], _BAD)

    def unknown_field(self) -> Ask:
        """A field that nobody knows."""
        return self._bad("unknown field", self._chat_body() | {"temprature": 0.5})

    def wrong_type(self) -> Ask:
        """A field of the wrong type."""
        return self._bad("wrong type", self._chat_body() | {"messages": [{"role": "user", "content": 7}]})

    def too_long(self) -> Ask:
        """A prompt and a completion that cannot fit the model's context."""
        return self._bad("too long", self._chat_body() | {"max_tokens": 10**6})

    def deep(self) -> Ask:
        """Brackets within brackets."""
        return self._raw("deep nesting", b"[" * self._random.randint(100, 30_000), _BAD)

    def wrong_model(self) -> Ask:
        """A model that is not served."""
        return self._bad("wrong model", self._chat_body() | {"model": "gpt-4"}, 404)

    def wrong_key(self) -> Ask:
        """A key that nobody has."""
        ask = self._bad("wrong key", self._chat_body(), 401)
        return msgspec.structs.replace(ask, headers={"authorization": "Bearer sk-stolen"})

    def wrong_content_type(self) -> Ask:
        """A form instead of JSON."""
        ask = self._bad("wrong content type", self._chat_body(), 415)
        return msgspec.structs.replace(ask, headers={"content-type": "application/x-www-form-urlencoded"})

    def too_large(self) -> Ask:
        """A body above the limit."""
        return self._raw(
            "too large", b" " * (MAX_BODY_BYTES + self._random.randint(1, MAX_BODY_BYTES)), frozenset({413})
        )

    def _prompt(self) -> str:
        return " ".join(
            story_prompt(0, self._random.randrange(10**6)) for _ in range(self._random.choice((1, 1, 1, 4)))
        )

    def _limits(self) -> dict[str, Any]:
        return {"max_tokens": self._random.choice((1, 4, 16, 48)), "temperature": self._random.choice((0.0, 1.0))}

    def _chat_body(self) -> dict[str, Any]:
        messages = [{"role": "user", "content": self._prompt()}]
        return {"model": self._model, "messages": messages, "priority": self._random.randint(-1, 1), **self._limits()}

    def _ask(self, kind: str, path: str, body: dict[str, Any], *, is_stream: bool = False) -> Ask:
        encoded = msgspec.json.encode({"model": self._model} | body)
        return Ask(kind=kind, path=path, body=encoded, expected=OK, is_stream=is_stream)

    def _bad(self, kind: str, body: dict[str, Any], status: int = 400) -> Ask:
        return self._raw(kind, msgspec.json.encode(body), frozenset({status}))

    def _raw(self, kind: str, body: bytes, expected: frozenset[int]) -> Ask:
        return Ask(kind=kind, path="/v1/chat/completions", body=body, expected=expected)


_KINDS: dict[Callable[[Asks], Ask], int] = {
    Asks.chat: 4,
    Asks.chat_stream: 6,
    Asks.text_stream: 3,
    Asks.response_stream: 2,
    Asks.structured: 1,
    Asks.tokens: 2,
    Asks.broken_json: 1,
    Asks.unknown_field: 1,
    Asks.wrong_type: 1,
    Asks.too_long: 1,
    Asks.deep: 1,
    Asks.wrong_model: 1,
    Asks.wrong_key: 1,
    Asks.wrong_content_type: 1,
    Asks.too_large: 1,
}
"""How often each kind is asked, beside the others."""
