from __future__ import annotations

from pathlib import Path

import pytest

from bench.history.otava import default_otava


@pytest.fixture
def otava() -> Path:
    """Apache Otava, which has a venv of its own."""
    path = default_otava()
    if not path.is_file():
        pytest.skip("Otava has a venv of its own: make otava")
    return path
