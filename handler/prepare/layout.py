"""Turns a model directory in Hugging Face layout into the files of a snapshot.

Knows which file is needed for what. Weights are hard-linked where the filesystem allows, so a snapshot takes
no space beside its source; replacing the source's files leaves the snapshot as it was, writing into them does
not.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from handler.boot import BootTimeline
from handler.engine.architecture import open_architecture
from handler.engine.weights.safetensors import INDEX_FILE, SINGLE_FILE, check_headers, shard_names
from handler.errors import SnapshotError
from handler.prepare.chat_template import TEMPLATE_FILE, chat_template_of
from handler.prepare.documents import read_json, write_json
from handler.prepare.progress import Progress
from handler.prepare.tokenizer_files import write_tokenizer_files

_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})


def write_from_layout(source: Path, directory: Path, progress: Progress) -> None:
    """Write every file of a snapshot but its manifest.

    Raises:
        SnapshotError: a file is missing or malformed, the weights are pickled, or the engine cannot run such a model;
            see the subclasses.
    """
    progress.step(f"reading {source}")
    if not (source / "config.json").is_file():
        raise SnapshotError(f"{source} has no config.json, so it is no model directory")
    config = read_json(source / "config.json")
    open_architecture(source, BootTimeline())
    names = [path.name for path in source.iterdir()]
    if INDEX_FILE not in names and SINGLE_FILE not in names:
        raise SnapshotError(no_weights(str(source), names))
    check_headers(source)
    shutil.copyfile(source / "config.json", directory / "config.json")
    if "generation_config.json" in names:
        read_json(source / "generation_config.json")
        shutil.copyfile(source / "generation_config.json", directory / "generation_config.json")
    else:
        ids = {name: config[name] for name in _TOKEN_IDS if config.get(name) is not None}
        write_json(directory / "generation_config.json", ids)
    write_tokenizer_files(source, directory, progress)
    if (template := chat_template_of(source)) is not None:
        (directory / TEMPLATE_FILE).write_text(template, encoding="utf-8")
    _bring_weights(source, directory, progress)


def no_weights(where: str, names: list[str]) -> str:
    """Why a model with these files cannot be prepared, in one line."""
    if pickled := sorted(name for name in names if Path(name).suffix in _PICKLE_SUFFIXES):
        return f"{where} has pickled weights only ({pickled[0]}), which can run code; safetensors are needed"
    if ggufs := sorted(name for name in names if name.endswith(".gguf")):
        return f"{where} has no {SINGLE_FILE}; it has GGUF files: name the path of one, such as {ggufs[0]}"
    return f"{where} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE}"


def _bring_weights(source: Path, directory: Path, progress: Progress) -> None:
    names = shard_names(source)
    progress.step("bringing the weights", sum((source / name).stat().st_size for name in names))
    if (source / INDEX_FILE).is_file():
        shutil.copyfile(source / INDEX_FILE, directory / INDEX_FILE)
    for name in names:
        origin = (source / name).resolve()  # the hub's cache holds links to its files
        try:
            os.link(origin, directory / name)
        except OSError:  # another filesystem, or one without hard links
            shutil.copyfile(origin, directory / name)
        progress.advance(origin.stat().st_size)
