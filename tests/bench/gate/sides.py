"""Sides for the gate that are not built: links to the function as it is, with one file of another content."""

from __future__ import annotations

import sys
from pathlib import Path

import handler
from bench.gate.installation import Installation

SOURCE = Path(handler.__file__).parent


def side_of(directory: Path, file: str | None = None, changed: str = "") -> Installation:
    """The function, where `file` holds what was changed."""
    function = directory / "function"
    function.mkdir(parents=True)
    if file is None:
        (function / "handler").symlink_to(SOURCE)
    else:
        _mirror(SOURCE, function / "handler", Path(file).relative_to("handler").parts, changed)
    return Installation(directory=str(directory), python=sys.executable)


def _mirror(source: Path, target: Path, parts: tuple[str, ...], changed: str) -> None:
    """Links to everything beside the way to one file, which is written anew."""
    if not parts:
        target.write_text(changed, encoding="utf-8")
        return
    target.mkdir()
    for path in source.iterdir():
        if path.name == parts[0]:
            _mirror(path, target / path.name, parts[1:], changed)
        elif path.name != "__pycache__":
            (target / path.name).symlink_to(path)
