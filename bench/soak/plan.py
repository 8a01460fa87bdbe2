"""What a soak does."""

from __future__ import annotations

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a soak does.

    Attributes:
        seconds: of load.
        clients: that ask at the same time.
        seed: of what is asked, and when things go wrong.
        outage_pause_s: mean time between two outages of the database.
        sample_s: between two looks at the process.
        warm_up_requests: before the first look.
        batch: sequences that the function runs at once.
        queue: sequences that may wait beyond those.
        database_connections: of the function, at most.
        kv_cache_fraction: small, so that every block has been in use soon: memory that is touched for the first time
            looks like a leak.
    """

    seconds: float
    clients: int
    seed: int
    outage_pause_s: float
    sample_s: float
    warm_up_requests: int = 60
    batch: int = 8
    queue: int = 16
    database_connections: int = 4
    kv_cache_fraction: float = 0.02
