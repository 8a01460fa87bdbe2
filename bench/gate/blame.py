"""Whose fault it is that something could not be measured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

from bench.errors import BenchError

SideName = Literal["base", "head"]
SIDES: tuple[SideName, SideName] = ("base", "head")


class SideError(BenchError):
    """One side could not be measured.

    Attributes:
        side: which.
    """

    def __init__(self, side: SideName, message: str) -> None:
        super().__init__(f"{side}: {message}")
        self.side = side


@contextlib.contextmanager
def blaming(side: SideName) -> Iterator[None]:
    """Whatever cannot be measured in the block is this side's fault.

    Raises:
        SideError: for a BenchError that is of no side yet.
    """
    try:
        yield
    except SideError:
        raise
    except BenchError as error:
        raise SideError(side, str(error)) from error
