"""One server of the comparison, as it crosses into that server's process. Pure data: knows no framework.

`python -m bench.baselines.serving SPEC_JSON` serves it, in one process, on the loopback; `GET /ready` answers 200 once
a token could be generated.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Stack = Literal["bare", "pilotlight", "fastapi", "flask", "django", "django-asgi"]
"""Who answers: constant bytes as the floor, the function, or a web framework under the server that its users run."""

STACKS: tuple[Stack, ...] = ("bare", "pilotlight", "fastapi", "flask", "django", "django-asgi")

NUM_GREETINGS = 10_000
"""Rows of the table that `GET /database` reads; their ids are 1 to that."""

MAX_BATCH_SIZE = 4096
"""Of the stub engine: it takes any number of sequences at once, so that no request of the comparison has to wait."""


class StackSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One server.

    Attributes:
        stack: which.
        port: where it listens, on the loopback.
        core: the only processor that it may use; None lets it use all.
        engine: made-up tokens that cost nothing, or the prepared model.
        snapshot: directory of the prepared model; for the stub engine the tokenizer and the template that are used,
            None for stubs of both.
        database: URL of the database that records go to from the spool, and that `GET /database` reads; `none` keeps
            records in the spool, and `GET /database` answers 503.
        directory: of its own, for spool and log.
        step_s: time from one step of the stub engine to the next; 0 begins a step when the events of the last one have
            been taken.
        threads: of a WSGI server, each of which works on one request at a time; others make no use of it.
    """

    stack: Stack
    port: int
    core: int | None
    engine: Literal["stub", "model"]
    snapshot: str | None
    database: str
    directory: str
    step_s: float
    threads: int


API_KEY = "sk-bench"
"""What the chat endpoint of every stack asks for, as `Authorization: Bearer`."""
