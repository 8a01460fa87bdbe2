"""The socket that the function is reached by: taken before anything slow begins, and named in words.

Knows no server and no settings but the names of those to blame. Runs in the main thread, before there is an event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import MutableMapping

from handler.errors import ConfigurationError

_FIRST_DESCRIPTOR = 3


def bind(host: str, port: int) -> socket.socket:
    """A socket that owns the address but does not listen yet: until uvicorn does, clients are refused, not kept.

    Raises:
        ConfigurationError: the address cannot be used.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError("PORT", f"must be between 0 and 65535, got {port}")
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            stack.pop_all()
    except OSError as error:
        number = None if isinstance(error, socket.gaierror) else error.errno
        key = "HOST" if isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL else "PORT"
        reason = os.strerror(number) if number else error
        raise ConfigurationError(key, f"cannot listen on {host}:{port}: {reason}") from error
    return listener


def inherited(environ: MutableMapping[str, str]) -> socket.socket | None:
    """The listening socket that a service manager has handed to this process; None where none did.

    sd_listen_fds(3): the variables are taken out of `environ`, so that no child takes the socket for its own. Who
    connects before we accept waits in it, even while nobody runs.

    Raises:
        ConfigurationError: there are several, or what was handed over is no TCP socket that listens.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or count in {"", "0"}:
        return None
    if count != "1":
        raise ConfigurationError("LISTEN_FDS", f"must be 1: the function listens on one socket, got {count}")
    os.set_inheritable(_FIRST_DESCRIPTOR, False)
    try:
        listener = socket.socket(fileno=_FIRST_DESCRIPTOR)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigurationError("LISTEN_FDS", f"descriptor {_FIRST_DESCRIPTOR} is no socket: {error}") from error
    if not listens or listener.family not in {socket.AF_INET, socket.AF_INET6}:
        raise ConfigurationError("LISTEN_FDS", "the socket must be one of TCP that listens")
    return listener


def listener_address(listener: socket.socket) -> str:
    """The URL of what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
