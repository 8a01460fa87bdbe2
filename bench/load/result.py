"""The file that `pilotlight bench load` leaves."""

from __future__ import annotations

import msgspec

from bench.environment import Environment
from bench.load.plan import LoadAnswer, LoadSpec

FORMAT_VERSION = 1


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """One load, and on what it was put on.

    Attributes:
        environment: of the machine that the load ran on, which need not be the server's.
        plan: the load, without its key.
        processes: that put it on.
        answer: what it came to.
        benchmark: its name on the command line.
        format_version: of this file.
    """

    environment: Environment
    plan: LoadSpec
    processes: int
    answer: LoadAnswer
    benchmark: str = "load"
    format_version: int = FORMAT_VERSION
