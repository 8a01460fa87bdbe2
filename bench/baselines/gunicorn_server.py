"""gunicorn with its threaded worker, as its documentation has it for an application that waits. Linux only.

One worker process: the engine lives in it, and a second one would be a second model. Each request has one of its
threads to itself from the first byte to the last: of more streams than threads the others wait in line, and their
clients see nothing until a thread is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication

from bench.baselines.wsgi_app import WsgiApp

_KEEP_ALIVE_S = 75
_MAX_CONNECTIONS = 8192


class ThreadedServer(BaseApplication):  # type: ignore[misc]  # gunicorn brings no types
    """A custom application, as gunicorn documents it.

    Args:
        port: on the loopback.
        threads: of the worker.
        open_app: makes the application, in the worker: what starts threads must not be started before the fork.
        close: ends what `open_app` began, in the worker.
    """

    def __init__(self, port: int, threads: int, open_app: Callable[[], WsgiApp], close: Callable[[], None]) -> None:
        self._port = port
        self._threads = threads
        self._open_app = open_app
        self._close = close
        super().__init__()

    def load_config(self) -> None:
        """Settings that differ from gunicorn's own."""

        def worker_exit(server: Any, worker: Any) -> None:
            del server, worker
            self._close()

        settings = {
            "bind": f"127.0.0.1:{self._port}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": self._threads,
            "worker_connections": _MAX_CONNECTIONS,
            "keepalive": _KEEP_ALIVE_S,
            "worker_tmp_dir": "/dev/shm",  # noqa: S108  (the worker's heartbeat, which a disk would hold up)
            "max_requests": 0,
            "accesslog": None,
            "errorlog": "-",
            "loglevel": "warning",
            "control_socket_disable": True,
            "worker_exit": worker_exit,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> WsgiApp:
        """Called in the worker."""
        return self._open_app()
