from __future__ import annotations

import logging
import logging.handlers
import queue
import warnings

import pytest

from handler.engine.quiet import quiet


@pytest.mark.parametrize("library", ["transformers", "huggingface_hub"])
def test_a_library_says_nothing_until_the_block_ends(library: str) -> None:
    with quiet(library):  # imported before its level is read below
        pass
    logger, said = logging.getLogger(library), queue.SimpleQueue[logging.LogRecord]()
    handler = logging.handlers.QueueHandler(said)
    logger.addHandler(handler)
    level = logger.level
    try:
        with quiet(library) as module:
            assert module.__name__ == library
            logger.critical("a log line")
            warnings.warn("a warning", stacklevel=1)  # an error under this suite's filters
        assert said.empty()
        assert logger.level == level
        logger.critical("a log line")
        assert not said.empty()
    finally:
        logger.removeHandler(handler)
