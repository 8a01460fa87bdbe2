"""Locust's users. Importing this imports Locust, which puts gevent in place of what blocks in the standard library."""

from __future__ import annotations

import time
from typing import ClassVar

import gevent
from locust import User, task

from bench.load.session import Session


class ChatUser(User):
    """Asks, reads the answer to its end, and asks again. In an open loop it waits: requests come from the dispatcher.

    Attributes:
        session: the load of this process, set before a user is made, as Locust sets `host`.
    """

    session: ClassVar[Session]

    @task
    def ask(self) -> None:
        """One request, or none when the time for it is over."""
        session = self.session
        now_s = time.monotonic()
        if now_s < session.began_s:
            session.wait_for_begin()
        elif session.is_closed and now_s < session.end_s:
            session.ask_next()
        else:
            gevent.sleep(0.1)
