from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from handler.engine.native.library import open_library
from handler.errors import EngineError

COMPILER = shutil.which("cc")


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_kernels_of_older_sources_are_named_as_what_they_are(tmp_path: Path) -> None:
    assert COMPILER is not None
    source, library = tmp_path / "old.c", tmp_path / "_kernels.so"
    source.write_text("int pl_is_supported(void) { return 1; }\n")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", library, source], check=True, timeout=60)
    with pytest.raises(EngineError, match=r"_kernels\.so was compiled from older sources \(.*pl_is_supported_avx512"):
        open_library(library)
