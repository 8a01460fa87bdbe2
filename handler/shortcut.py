"""Shorter ways than ASGI's messages, where the server that runs the application has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Receive, Send


def beside(channel: Receive | Send, name: str) -> Callable[..., Any] | None:
    """A method of the object whose own method `receive` or `send` is.

    None where there is none. Whoever wraps one of them, to see or to change what passes, has all of it by messages.
    """
    method: Callable[..., Any] | None = getattr(getattr(channel, "__self__", None), name, None)
    return method
