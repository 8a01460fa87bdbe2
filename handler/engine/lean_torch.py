"""Imports torch without what serving does not use: a quarter of the time that importing it takes.

`torch._meta_registrations` says for hundreds of operators what their results would look like: for code that is traced,
compiled, or run on the meta device. It is put off until somebody asks for anything in it, or for all of it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

_PUT_OFF = "torch._meta_registrations"


class _PutOff(types.ModuleType):
    """In place of the module, until one of its names is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_import(), name)


def import_torch() -> None:
    """Import torch, unless that has been done; as it comes where it is not made as we know it."""
    if "torch" in sys.modules or _PUT_OFF in sys.modules:
        return
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        name = _PUT_OFF.rpartition(".")[2]
        if Path(spec.origin).with_name(f"{name}.py").is_file():
            sys.modules[_PUT_OFF] = _PutOff(_PUT_OFF)
    importlib.import_module("torch")


def complete_torch() -> None:
    """Import what was put off: to be called before anything runs on the meta device, is traced or compiled."""
    if isinstance(sys.modules.get(_PUT_OFF), _PutOff):
        _import()


def _import() -> types.ModuleType:
    """The module itself, in its own place."""
    if isinstance(sys.modules.get(_PUT_OFF), _PutOff):
        del sys.modules[_PUT_OFF]
    module = importlib.import_module(_PUT_OFF)
    setattr(sys.modules["torch"], _PUT_OFF.rpartition(".")[2], module)
    return module
