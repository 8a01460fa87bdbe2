"""What befalls the database of a soak: killed, hung, refusing, cut off. One outage after another, by seed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

from bench.soak.proxy import DatabaseProxy
from handler.requestlog.embedded import EmbeddedPostgres

_LONGEST_S = 15.0
_MOST_BYTES = 100_000


class Outages:
    """Breaks the way to the database and mends it again.

    Attributes:
        counts: outages so far, by kind.
    """

    def __init__(self, proxy: DatabaseProxy, postgres: EmbeddedPostgres, data: Path, seed: str, pause_s: float) -> None:
        """Prepare.

        Args:
            proxy: the way to it.
            postgres: the database, started.
            data: its data directory.
            seed: of what happens, and for how long.
            pause_s: mean time between two outages.
        """
        self.counts: Counter[str] = Counter()
        self._proxy = proxy
        self._postgres = postgres
        self._data = data
        self._random = random.Random(seed)  # noqa: S311  (a repeatable choice, not a secret)
        self._pause_s = pause_s
        self._kinds = {
            "killed": self._kill,
            "hung": self._hang,
            "refusing": self._refuse,
            "cut": self._cut,
            "cut in what was sent": self._cut_in_sent,
        }

    async def run(self) -> None:
        """One outage after another, each kind as often as the others, until cancelled; all is well between two."""
        while True:
            for kind in self._random.sample(list(self._kinds), len(self._kinds)):
                await asyncio.sleep(self._random.uniform(0.5, 1.5) * self._pause_s)
                self.counts[kind] += 1
                await self._kinds[kind]()

    async def mend(self) -> None:
        """Make everything well again, whatever was going on."""
        self._proxy.unblock()
        await asyncio.to_thread(self._postgres.start)
        await self._proxy.close()
        await self._proxy.open()

    async def _kill(self) -> None:
        pid = int((self._data / "postmaster.pid").read_text(encoding="utf-8").partition("\n")[0])
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(self._duration_s())
        await asyncio.to_thread(self._postgres.start)

    async def _hang(self) -> None:
        self._proxy.block()
        await asyncio.sleep(self._duration_s())
        self._proxy.unblock()

    async def _refuse(self) -> None:
        await self._proxy.close()
        await asyncio.sleep(self._duration_s())
        await self._proxy.open()

    async def _cut(self) -> None:
        self._proxy.cut()

    async def _cut_in_sent(self) -> None:
        self._proxy.cut_after(self._random.randrange(_MOST_BYTES))

    def _duration_s(self) -> float:
        return self._random.uniform(0.1, 1.0) * min(_LONGEST_S, self._pause_s)
