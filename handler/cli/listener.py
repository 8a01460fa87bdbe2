"""The socket that the function is reached by: taken before anything slow begins, and named in words.

Knows no server and no settings but the names of those to blame. Runs in the main thread, before there is an event loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from handler.errors import ConfigurationError


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


def listener_address(listener: socket.socket) -> str:
    """The URL of what listens there."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"http://{host}:{port}"
