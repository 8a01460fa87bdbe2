""".ci/audit.py over what pip-audit may say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / ".ci" / "audit.py"
GOOD = '{"name": "a", "version": "1", "vulns": []}'
BAD = '{"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}'
UNKNOWN = '{"name": "c", "skip_reason": "not found"}'


@pytest.mark.parametrize(
    ("said", "code", "shown"),
    [
        (f'{{"dependencies": [{GOOD}]}}', 0, ["audit: 0 findings in 1 packages"]),
        (f'{{"dependencies": [{GOOD}, {BAD}]}}', 1, ["b 2: PYSEC-1, mended in 3", "audit: 1 findings in 2 packages"]),
        (f'{{"dependencies": [{UNKNOWN}, {GOOD}]}}', 0, ["1 of 2 packages could not be looked up, c for one"]),
        (f'{{"dependencies": [{UNKNOWN}, {BAD}]}}', 1, ["1 of 2 packages", "PYSEC-1"]),
        ("", 0, ["audit skipped: no route"]),
    ],
)
def test_a_finding_fails_and_silence_does_not(tmp_path: Path, said: str, code: int, shown: list[str]) -> None:
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{said}'\necho 'Traceback' >&2\necho 'no route' >&2\n")
    program.chmod(0o755)
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, SCRIPT], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert all(text in done.stdout for text in shown), done.stdout
