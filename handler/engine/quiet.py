"""Keeps the libraries that convert and download off the user's screen while they work."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet(library: str) -> Iterator[Any]:
    """Import `library` and yield it: no log line, no Python warning. Bars are the caller's to replace.

    Importing inside the block matters: transformers and huggingface_hub both set their log level, and both
    may warn, while they are imported.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module(library)
        logger = logging.getLogger(library)
        level = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield module
        finally:
            logger.setLevel(level)


def first_line(error: BaseException) -> str:
    """What a library's error says, without the paragraphs that follow."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
