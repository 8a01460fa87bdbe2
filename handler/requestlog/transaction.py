"""What a transaction of ours is told about its limits, so that the server ends it where its client cannot.

A client that was frozen, or whose host has vanished, closes no connection. Its transaction would go on holding its
locks: on the rows that it wrote, which its successor writes again, or on the turn to migrate.
"""

from __future__ import annotations

_KEEPALIVE_IDLE_S = 30
_KEEPALIVE_INTERVAL_S = 10
_KEEPALIVE_COUNT = 3


def limits(timeout_s: float) -> str:
    """SQL for the beginning of a transaction, in force until its end: `set local` works behind any pooler.

    A statement, and a pause between two, may take `timeout_s`. Neither counts while the server waits for the rows of a
    COPY: there the keepalives of TCP tell it that nobody will send any more.
    """
    timeout_ms = max(1, round(timeout_s * 1000))
    return (
        f"set local statement_timeout = {timeout_ms};"
        f" set local idle_in_transaction_session_timeout = {timeout_ms};"
        f" set local tcp_keepalives_idle = {_KEEPALIVE_IDLE_S};"
        f" set local tcp_keepalives_interval = {_KEEPALIVE_INTERVAL_S};"
        f" set local tcp_keepalives_count = {_KEEPALIVE_COUNT};"
    )
