from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.micro.paths import PATHS
from handler.engine.snapshot import Snapshot
from tests.conftest import TEST_HOME

DRAWS = {"sampler"}
"""Paths that go on in a sequence's random numbers."""

_WITHOUT_TORCH = """
import sys
from bench.micro.paths import PATHS
for name in sys.argv[1:]:
    PATHS[name]()()
    print(name, "torch" in sys.modules)
"""


@pytest.fixture(autouse=True)
def home(embedded_snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    del embedded_snapshot
    monkeypatch.setenv("PILOTLIGHT_HOME", str(TEST_HOME))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """The sampler's path takes torch's threads but one away."""
    number = torch.get_num_threads()
    yield
    torch.set_num_threads(number)


@pytest.mark.parametrize("name", PATHS)
def test_each_call_does_the_same_and_leaves_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = PATHS[name]()
    results = [path() for _ in range(3)]
    again = PATHS[name]()
    assert [again() for _ in range(3)] == results
    if name not in DRAWS:
        assert results[1:] == results[:-1]
    assert list(tmp_path.iterdir()) == []


def test_only_the_sampler_pays_for_torch() -> None:
    names = [*(name for name in PATHS if name != "sampler"), "sampler"]
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH, *names], env=os.environ, capture_output=True, text=True, check=True
    )
    assert [line.split() for line in done.stdout.splitlines()] == [[name, str(name == "sampler")] for name in names]
