"""How long work reports that it goes on. Knows no terminal: `handler.cli.prepare` draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of each step as it begins and of the bytes it has done, these by several threads at once."""

    def step(self, what: str, total_bytes: int | None = None) -> None:
        """A step begins, and the one before it is over. `total_bytes` is None where they are not known."""

    def advance(self, done_bytes: int) -> None:
        """The step that runs has done so many bytes more."""


class NoProgress:
    """Tells nobody."""

    def step(self, what: str, total_bytes: int | None = None) -> None:
        """Ignore the step."""

    def advance(self, done_bytes: int) -> None:
        """Ignore the bytes."""
