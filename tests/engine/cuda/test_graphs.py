from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import pytest

from handler.engine.cuda import graphs
from handler.engine.cuda.graphs import LazyGraphs

T = TypeVar("T")


class Captured:
    """Remembers what was captured, and tells replays from eager uses."""

    def __init__(self) -> None:
        self.replays = 0

    def __call__(self, compute: Callable[[], T]) -> Callable[[], T]:
        def replay() -> T:
            self.replays += 1
            return compute()

        return replay


def test_a_shape_is_captured_when_it_keeps_coming() -> None:
    captured = Captured()
    lazy = LazyGraphs[str](captured)
    for _ in range(graphs._EAGER_USES):
        assert lazy.run(1, lambda: "result") == "result"
    assert (lazy.num_captured, captured.replays) == (0, 0)
    assert lazy.run(1, lambda: "result") == "result"
    assert (lazy.num_captured, captured.replays) == (1, 1)
    lazy.run(2, lambda: "other")
    assert (lazy.num_captured, captured.replays) == (1, 1)


def test_idle_moments_capture_what_was_used_once() -> None:
    captured = Captured()
    lazy = LazyGraphs[str](captured)
    lazy.run(1, lambda: "one")
    lazy.run(2, lambda: "two")
    for wanted in (1, 2, 2):
        lazy.idle()
        assert lazy.num_captured == wanted
    assert (lazy.run(1, lambda: "one"), lazy.run(2, lambda: "two")) == ("one", "two")
    assert captured.replays == 2


def test_what_cannot_be_captured_goes_on_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(compute: Callable[[], T]) -> Callable[[], T]:
        raise RuntimeError("out of memory")

    lazy = LazyGraphs[int](refuse)
    lazy.run("shape", lambda: 1)
    with caplog.at_level(logging.WARNING):
        lazy.idle()
    assert "steps of shape stay without a graph: out of memory" in caplog.text
    assert lazy.run("shape", lambda: 1) == 1
