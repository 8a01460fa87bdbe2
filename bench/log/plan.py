"""What a run of the log's benchmark does, as it crosses into the processes that ship."""

from __future__ import annotations

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The same for every contender.

    Attributes:
        rounds: how often each contender is measured.
        seconds: of each load of a server.
        connections: that each load keeps busy.
        records: of the steady flow, and of the backlog.
        rate_per_s: records a second of the flow.
        server_core: the processor that servers run on, and nothing else.
        load_core: the processor of the load, and of PostgreSQL while servers are measured.
        seed: of the order.
    """

    rounds: int
    seconds: int
    connections: int
    records: int
    rate_per_s: int
    server_core: int
    load_core: int
    seed: int


class ShippingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One process that makes records and ships them.

    Attributes:
        database: its URL.
        postmaster: PostgreSQL's first process.
        directory: of its own, for the spool.
        cores: the processors that it may use.
        records: how many.
        rate_per_s: how many of them a second come in while it ships; None has all of them wait in the spool before.
    """

    database: str
    postmaster: int
    directory: str
    cores: tuple[int, ...]
    records: int
    rate_per_s: int | None


class Shipped(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it, while it was in full flow.

    Attributes:
        rows: written in that time.
        seconds: how long that was.
        cpu_s: processor time of the process that ships; of a steady flow with making records and spooling them.
        postgres_cpu_s: that of PostgreSQL.
        most_spooled: the largest number of records that were in the spool at once.
    """

    rows: int
    seconds: float
    cpu_s: float
    postgres_cpu_s: float
    most_spooled: int
