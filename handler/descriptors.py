"""File descriptors: every connection takes one, and so do the spool, the database and the model's files."""

from __future__ import annotations

import resource

_RESERVED = 256
"""For everything but connections: a spool that cannot open a segment loses records, a refused client comes again."""
_MOST = 1 << 20
"""More is never asked for: containers may state a billion, and there are programs that walk through all of them."""


def raise_descriptor_limit() -> None:
    """Raise this process's limit as far as it may without privileges; its children inherit that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def max_connections() -> int:
    """How many connections leave enough descriptors for the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else max(soft - _RESERVED, soft // 2)
