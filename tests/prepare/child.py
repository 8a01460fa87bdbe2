"""One prepare in a process of its own, which a test may kill: `python -m tests.prepare.child MODEL HOME`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from handler.errors import SnapshotError
from handler.prepare.preparation import prepare


class Reporter:
    """Prints each step; a third argument `slow` dwells on every block of bytes, `count` prints their sum."""

    def __init__(self) -> None:
        self.done_bytes = 0

    def step(self, what: str, total_bytes: int | None = None) -> None:
        if sys.argv[3:] == ["count"]:
            sys.stdout.write(f"{self.done_bytes} bytes\n")
        self.done_bytes = 0
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()

    def advance(self, done_bytes: int) -> None:
        self.done_bytes += done_bytes
        if sys.argv[3:] == ["slow"]:
            time.sleep(0.05)


if __name__ == "__main__":
    try:
        snapshot = prepare(sys.argv[1], Path(sys.argv[2]), Reporter())
    except SnapshotError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.write(f"done {snapshot.directory}\n")
