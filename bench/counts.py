"""Numbers on command lines."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """A whole number from 1 on.

    Raises:
        ArgumentTypeError: anything else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1 on")
    return int(text)
