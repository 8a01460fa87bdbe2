from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

from bench.environment import look_around, read_cpuinfo

CPUINFO = """processor\t: 0
model name\t: Some Processor
flags\t\t: fpu avx2 avx512f sse

processor\t: 1
model name\t: Another
flags\t\t: amx_int8
"""


def test_what_is_known_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = look_around()
    assert found.packages["torch"] == torch.__version__
    assert found.variables["OMP_NUM_THREADS"] == "1"
    assert found.num_cpus >= 1
    assert found.memory_bytes > 1 << 28
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    assert found.commit == head.stdout.strip()


def test_the_first_processor_speaks_for_all(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert read_cpuinfo(tmp_path / "cpuinfo") == ("Some Processor", ("avx2", "avx512f"))
    assert read_cpuinfo(tmp_path / "missing") == (None, ())


def test_without_git_and_nvidia_smi_the_rest_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GIT_COMMIT", raising=False)
    found = look_around()
    assert (found.commit, found.is_modified, found.gpus) == (None, None, ())
    monkeypatch.setenv("GIT_COMMIT", "0123abc")
    assert look_around().commit == "0123abc"


def test_a_card_is_named_by_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 580.159.03, 143771'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    (card,) = look_around().gpus
    assert (card.name, card.driver, card.memory_mib) == ("NVIDIA H200", "580.159.03", 143771)
