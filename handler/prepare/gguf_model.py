"""Turns one GGUF file into the files of a snapshot. Knows the order of the work, no format."""

from __future__ import annotations

from pathlib import Path

from handler.engine.weights.gguf import GgufFile
from handler.errors import CorruptSnapshotError
from handler.prepare.documents import write_json
from handler.prepare.gguf_config import config_of, generation_config_of
from handler.prepare.gguf_tokenizer import write_tokenizer
from handler.prepare.progress import Progress
from handler.prepare.safetensors_stream import write_safetensors


def write_from_gguf(path: Path, directory: Path, progress: Progress) -> None:
    """Write every file of a snapshot but its manifest.

    Raises:
        SnapshotError: the file cannot be read, or asks for something unsupported; see the subclasses.
    """
    progress.step(f"reading {path.name}")
    try:
        file = GgufFile(path)
        config, generation_config, specs = config_of(file), generation_config_of(file), file.specs
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # values of a kind that nobody expects there
        raise CorruptSnapshotError(f"{path}: its metadata cannot be understood: {error}") from error
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", generation_config)
    progress.step("converting the tokenizer")
    write_tokenizer(file, directory)
    progress.step("converting the weights", sum(spec.size_bytes for spec in specs))
    write_safetensors(directory / "model.safetensors", specs, file.tensors(), progress.advance)
