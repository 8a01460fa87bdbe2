from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import transformers

from bench.interpreters import PEERS, REQUIREMENTS, peer_versions
from handler.errors import ConfigurationError


def interpreter(directory: Path, body: str) -> Path:
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_that_is_not_there_is_named_with_what_to_install(peer: str, tmp_path: Path) -> None:
    python = interpreter(tmp_path, f'exec {sys.executable} -S "$@"')  # without site-packages
    with pytest.raises(ConfigurationError) as caught:
        peer_versions(peer, python)
    assert caught.value.key == "--peer"
    assert f"{peer}: {python} has no {REQUIREMENTS[peer].modules[0]}" in str(caught.value)
    assert f"{python} -m pip install {REQUIREMENTS[peer].install}" in str(caught.value)


def test_versions_of_a_peer_that_is_there() -> None:
    versions = peer_versions("transformers-batch", Path(sys.executable))
    assert versions["transformers"] == transformers.__version__
    assert versions["torch"] == torch.__version__


@pytest.mark.parametrize("body", ["exit 3", "echo nonsense"])
def test_an_interpreter_that_is_none_is_told(body: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--peer-python"):
        peer_versions("llama-cpp", interpreter(tmp_path, body))
    with pytest.raises(ConfigurationError, match="--peer-python"):
        peer_versions("llama-cpp", tmp_path / "missing")
