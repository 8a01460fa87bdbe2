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
        turns: of either side, with whole requests and again with streams.
        connections: that ask for whole answers.
        streams: that ask for streams.
        tokens: of each streamed answer of the stub engine.
        batches: numbers of sequences whose step is timed, with the turns of either side, about.
        turn_steps: of the engine in a turn, about.
        records: of the request log that are shipped in a turn.
        log_turns: of either side.
        paths: micro paths, with the number of calls over which instructions are counted.
        server_core: the processor of stub servers, and of micro paths that are timed.
        load_core: that of the load.
        seed: of the order.
    """

    duels: tuple[str, ...]
    looks: tuple[int, ...]
    budget_s: float
    turns: int = 25
    connections: int = 64
    streams: int = 64
    tokens: int = 16
    batches: dict[int, int] = msgspec.field(default_factory=lambda: {1: 20, 16: 14})
    turn_steps: int = 3
    records: int = 2000
    log_turns: int = 16
    paths: dict[str, int] = msgspec.field(default_factory=lambda: PATHS)
    server_core: int
    load_core: int
    seed: int
