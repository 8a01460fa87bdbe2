"""Imports torch without parts that serving does not use: nearly a third of the time that importing it takes.

They are put off until somebody asks for anything in one of them, or for all of them: `complete_torch` must come before
code that is traced, compiled, or run on the meta device, for that relies on what importing them registers.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

PUT_OFF = (
    "torch._meta_registrations",  # the shapes of results, for hundreds of operators
    "torch.export",  # programs that were traced
    "torch.distributions",
)


class _PutOff(types.ModuleType):
    """In place of a module, until one of its names or of its own modules is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return getattr(_import(self.__name__), name)


def import_torch() -> None:
    """Import torch, unless that has been done. A part that it does not have is not put off."""
    if "torch" in sys.modules:
        return
    spec = importlib.util.find_spec("torch")
    for name in PUT_OFF:
        if spec is not None and spec.origin is not None and _is_in(Path(spec.origin).parent, name):
            sys.modules[name] = _PutOff(name)
    importlib.import_module("torch")


def complete_torch() -> None:
    """Import what was put off."""
    for name in PUT_OFF:
        if isinstance(sys.modules.get(name), _PutOff):
            _import(name)


def _is_in(directory: Path, name: str) -> bool:
    path = directory / name.rpartition(".")[2]
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _import(name: str) -> types.ModuleType:
    """The module itself, in its own place."""
    if isinstance(sys.modules.get(name), _PutOff):
        del sys.modules[name]
    module = importlib.import_module(name)
    setattr(sys.modules["torch"], name.rpartition(".")[2], module)
    return module
