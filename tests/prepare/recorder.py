"""Keeps what a prepare reports."""

from __future__ import annotations


class Recorder:
    """Progress that remembers every step."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.done_bytes = 0

    def step(self, what: str, total_bytes: int | None = None) -> None:
        self.steps.append(what)

    def advance(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes
