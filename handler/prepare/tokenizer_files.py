"""Brings the tokenizer of a model directory in Hugging Face layout into a snapshot.

Knows where special tokens are named; a tokenizer that has no tokenizer.json is converted by transformers.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from handler.engine.quiet import first_line, quiet
from handler.errors import SnapshotError
from handler.prepare.documents import read_json, write_json
from handler.prepare.progress import Progress

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
_SPECIAL_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


def write_tokenizer_files(source: Path, directory: Path, progress: Progress) -> None:
    """Write tokenizer.json and tokenizer_config.json, both as they are where they are complete.

    Raises:
        SnapshotError: there is no tokenizer, or transformers cannot convert it.
    """
    if (source / TOKENIZER_FILE).is_file():
        read_json(source / TOKENIZER_FILE)
        shutil.copyfile(source / TOKENIZER_FILE, directory / TOKENIZER_FILE)
        _write_config(source, directory, read_json(source / "config.json"))
    else:
        progress.step("converting the tokenizer")
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            converted = Path(scratch)
            _convert(source, converted)
            (converted / TOKENIZER_FILE).rename(directory / TOKENIZER_FILE)
            origin = source if (source / CONFIG_FILE).is_file() else converted
            _write_config(origin, directory, read_json(source / "config.json"))


def _convert(source: Path, directory: Path) -> None:
    """Convert a slow tokenizer. Code that the model brings is never run."""
    with quiet("transformers") as transformers:
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                source, local_files_only=True, trust_remote_code=False
            )
            tokenizer.save_pretrained(directory)
        except Exception as error:  # tokenizers raises bare exceptions
            raise SnapshotError(f"the tokenizer of {source} cannot be converted: {first_line(error)}") from error
    if not (directory / TOKENIZER_FILE).is_file():
        raise SnapshotError(f"the tokenizer of {source} has no fast form, and no {TOKENIZER_FILE} can be made of it")


def _write_config(source: Path, directory: Path, model_config: dict[str, Any]) -> None:
    """Copy tokenizer_config.json, or complete it with special tokens that only other files name."""
    path = source / CONFIG_FILE
    config = read_json(path) if path.is_file() else {}
    missing = {
        name: token for name, token in _tokens_elsewhere(source, directory, model_config).items() if name not in config
    }
    if path.is_file() and not missing:
        shutil.copyfile(path, directory / CONFIG_FILE)
    else:
        write_json(directory / CONFIG_FILE, config | missing)


def _tokens_elsewhere(source: Path, directory: Path, model_config: dict[str, Any]) -> dict[str, Any]:
    """Special tokens of special_tokens_map.json; where that is absent, those whose ids config.json names."""
    path = source / "special_tokens_map.json"
    if path.is_file():
        tokens = read_json(path)
        return {name: tokens[name] for name in _SPECIAL_TOKENS if tokens.get(name) is not None}
    if (source / CONFIG_FILE).is_file():
        return {}
    from tokenizers import Tokenizer  # noqa: PLC0415  # only for models without either file

    tokenizer = Tokenizer.from_file(str(directory / TOKENIZER_FILE))
    found: dict[str, Any] = {}
    for name in _SPECIAL_TOKENS:
        token_id = model_config.get(f"{name}_id")
        first_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
        if isinstance(first_id, int) and (token := tokenizer.id_to_token(first_id)) is not None:
            found[name] = token
    return found
