"""How the gate goes about it."""

from __future__ import annotations

import msgspec

DUELS = ("micro", "stub", "model", "log")
"""What is measured, by the process that it is measured on."""

PATHS = {
    "decode": 200,
    "validation": 400,
    "refusal": 200,
    "sse": 300,
    "spool": 15,
    "scheduler": 4,
    "encode": 30,
    "incremental_decode": 50,
}
"""Micro paths, with the number of calls over which instructions are counted: about as much work for each. The sampler
is left to the engine's step: a simulated processor takes minutes to import torch."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The same for both sides.

    Attributes:
        duels: what is measured.
        looks: numbers of rounds after which the samples are judged; the last one ends it.
        budget_s: after which no round begins, from the start of the command.
        seconds: of each load of a stub server with whole requests; each side gets two in a round.
        stream_s: of each load with streams, likewise.
        connections: that ask for whole answers.
        streams: that ask for streams.
        tokens: of each streamed answer of the stub engine.
        batches: numbers of sequences whose step is timed, with the tokens that each of them generates.
        records: of the request log that are shipped at once.
        paths: micro paths, with the number of calls over which instructions are counted.
        server_core: the processor of stub servers, and of micro paths that are timed.
        load_core: that of the load.
        seed: of the order.
    """

    duels: tuple[str, ...]
    looks: tuple[int, ...]
    budget_s: float
    seconds: int = 1
    stream_s: float = 0.6
    connections: int = 64
    streams: int = 64
    tokens: int = 256
    batches: dict[int, int] = msgspec.field(default_factory=lambda: {1: 40, 16: 16})
    records: int = 10_000
    paths: dict[str, int] = msgspec.field(default_factory=lambda: PATHS)
    server_core: int
    load_core: int
    seed: int
