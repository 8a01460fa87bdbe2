"""All clients of a soak at once, and what became of what they sent. Event loop only."""

from __future__ import annotations

import asyncio
import random
import time

from bench.soak.asks import Asks
from bench.soak.client import Client, Fate, Sent
from bench.soak.plan import Plan

ANSWER_S = 120.0
"""What a client waits for an answer at most."""
_START_S = 120.0
_NO_ROOM = 429
_MOST_PER_CLIENT_S = 1000


class Load:
    """All clients, and what they have sent."""

    def __init__(self, plan: Plan, port: int, model: str) -> None:
        self.sent: list[Sent] = []
        self._plan = plan
        self._port = port
        self._model = model

    async def ask_in_turn(self, num_requests: int) -> None:
        """That many requests, one after the other, by one client."""
        await self._ask_until("warm-up", time.monotonic() + _START_S, num_requests)

    async def run(self) -> None:
        """All clients at once, for as long as the plan says."""
        end_s = time.monotonic() + self._plan.seconds
        most = int(self._plan.seconds * _MOST_PER_CLIENT_S)
        async with asyncio.TaskGroup() as group:
            for number in range(self._plan.clients):
                group.create_task(self._ask_until(f"{number}", end_s, most))

    async def _ask_until(self, name: str, end_s: float, most: int) -> None:
        seed = f"{self._plan.seed}/{name}"
        asks, client = Asks(self._model, seed), Client("127.0.0.1", self._port, seed, ANSWER_S)
        pauses = random.Random(seed)  # noqa: S311  (a repeatable choice, not a secret)
        for number in range(most):
            if time.monotonic() >= end_s:
                break
            sent = await client.ask(asks.next(), f"soak-{name}-{number}")
            self.sent.append(sent)
            if sent.status == _NO_ROOM or sent.fate is Fate.BROKEN:
                await asyncio.sleep(pauses.uniform(0.05, 0.5))
        client.leave()
