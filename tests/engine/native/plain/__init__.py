"""The kernels compiled from plain C, for comparison: every set of instructions has to give the same bits."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

from handler.engine.native import library
from handler.engine.native.library import Kernels, declare

COMPILER = shutil.which("cc")
HERE = Path(__file__).parent
SOURCES = Path(library.__file__).with_name("src")


def compile_plain(directory: Path) -> Kernels:
    """Compile them into `directory`, in two seconds."""
    assert COMPILER is not None
    path = directory / "plain.so"
    flags = ["-shared", "-fPIC", "-std=gnu11", "-O1", "-ffp-contract=off", "-I", SOURCES, "-I", HERE]
    command = [COMPILER, *flags, "-o", path, HERE / "plain.c", "-lm", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return declare(ctypes.CDLL(str(path)), "plain", "plain C")
