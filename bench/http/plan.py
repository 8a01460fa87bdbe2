"""What a run of the HTTP benchmark does, as it crosses into the servers' processes."""

from __future__ import annotations

from typing import Literal

import msgspec

API_KEY = "sk-bench"
NO_LOG = "no log"
QUESTION = "What is the capital of France? Answer in one word."

Kind = Literal["bare", "bare-gathered", "pilotlight", "fastapi", "fastapi-generator"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The same for every contender.

    Attributes:
        rounds: how often each contender is measured.
        seconds: of each load.
        connections: that each load keeps busy.
        streams: connections of the loads that stream.
        tokens: of each streamed answer; a whole answer has one.
        server_core: the processor that servers run on, and nothing else.
        load_core: the processor of the load.
        seed: of the order.
    """

    rounds: int
    seconds: int
    connections: int
    streams: int
    tokens: int
    server_core: int
    load_core: int
    seed: int


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One server.

    Attributes:
        kind: which.
        port: where it listens, on the loopback.
        core: the processor that it may use.
        snapshot: directory of the model whose tokenizer and template it uses; None takes stubs.
        database: `none` or a URL: where records go from the spool; NO_LOG keeps none at all.
        directory: of its own, for spool and log.
        step_s: of the stub engine.
    """

    kind: Kind
    port: int
    core: int
    snapshot: str | None
    database: str
    directory: str
    step_s: float


def chat_body(model: str, *, tokens: int, stream: bool) -> bytes:
    """The request that every load sends."""
    messages = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": QUESTION},
    ]
    return msgspec.json.encode({"model": model, "messages": messages, "max_tokens": tokens, "stream": stream})
