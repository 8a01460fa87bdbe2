"""Finds the chat template of a model directory in Hugging Face layout. Knows where one may be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from handler.errors import SnapshotError
from handler.prepare.documents import read_json

TEMPLATE_FILE = "chat_template.jinja"


def chat_template_of(directory: Path) -> str | None:
    """The default template; a file of its own wins over tokenizer_config.json, as in transformers.

    Raises:
        SnapshotError: there are several templates and none is called `default`, or a file is malformed.
    """
    if (directory / TEMPLATE_FILE).is_file():
        try:
            return (directory / TEMPLATE_FILE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise SnapshotError(f"{directory / TEMPLATE_FILE} is not UTF-8: {error.reason}") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = directory / name
        if path.is_file() and (template := read_json(path).get("chat_template")) is not None:
            return _default(template, path)
    return None


def _default(template: Any, path: Path) -> str:
    if isinstance(template, str):
        return template
    try:
        named = {str(entry["name"]): str(entry["template"]) for entry in template}
    except (TypeError, KeyError) as error:
        raise SnapshotError(f"{path}: chat_template is neither a text nor a list of named ones") from error
    if "default" not in named:
        raise SnapshotError(f"{path} has chat templates {', '.join(sorted(named))}, and none is called 'default'")
    return named["default"]
