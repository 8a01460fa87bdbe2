"""Imports torch sooner: its libraries beside other work, and without parts that serving does not use.

Loading its libraries is a fifth of what importing torch takes, and those parts are a third. They are put off until
somebody asks for anything in one of them, or for all of them: `complete_torch` must come before code that is traced,
compiled, or run on the meta device, for that relies on what importing them registers.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any

PUT_OFF = (
    "torch._meta_registrations",  # the shapes of results, for hundreds of operators
    "torch.export",  # programs that were traced
    "torch.distributions",
    "torch.utils.data",  # data sets to train on
    "torch.ao",  # its own quantisation, and what stands for that under older names
    "torch.quantization",
    "torch.nn.intrinsic",
    "torch.nn.qat",
    "torch.nn.quantizable",
    "torch.nn.quantized",
)

_LIBRARIES = {"libtorch_global_deps.so": os.RTLD_NOW | os.RTLD_GLOBAL, "libtorch_python.so": os.RTLD_NOW}
"""As torch loads them itself."""


class _PutOff(types.ModuleType):
    """In place of a module, until one of its names or of its own modules is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        return getattr(_import(self.__name__), name)


def begin_to_load_libraries() -> threading.Thread:
    """Have torch's shared libraries loaded in a thread, and return at once.

    While Python imports an extension module no other thread gets on, and these take longest. What a thread calls by
    ctypes holds nobody up; only whoever loads another library meanwhile waits. So join the thread before importing
    torch. Where they lie elsewhere, or cannot be loaded, nothing happens: importing torch will say why.
    """
    thread = threading.Thread(target=_load_libraries, name="torch-libraries", daemon=True)
    thread.start()
    return thread


def import_torch() -> None:
    """Import torch, unless that has been done. A part that it does not have is not put off."""
    if "torch" in sys.modules:
        return
    directory = _torch_directory()
    for name in PUT_OFF:
        if directory is not None and _is_in(directory, name):
            sys.modules[name] = _PutOff(name)
    importlib.import_module("torch")
    for name in PUT_OFF:
        module, (parent, _, own_name) = sys.modules.get(name), name.rpartition(".")
        if isinstance(module, _PutOff) and parent in sys.modules:
            vars(sys.modules[parent]).setdefault(own_name, module)  # as importing it would have done


def complete_torch() -> None:
    """Import what was put off."""
    for name in PUT_OFF:
        if isinstance(sys.modules.get(name), _PutOff):
            _import(name)


def _load_libraries() -> None:
    directory = _torch_directory()
    if "torch" in sys.modules or directory is None:
        return
    paths = {directory / "lib" / name: mode for name, mode in _LIBRARIES.items()}
    if all(path.is_file() for path in paths):
        dlopen = ctypes.CDLL(None).dlopen  # dlopen(3); ctypes.CDLL itself would hold everybody up
        dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
        for path, mode in paths.items():
            dlopen(os.fsencode(path), mode)


def _torch_directory() -> Path | None:
    spec = importlib.util.find_spec("torch")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _is_in(directory: Path, name: str) -> bool:
    path = directory.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def _import(name: str) -> types.ModuleType:
    """The module itself, in its own place."""
    if isinstance(sys.modules.get(name), _PutOff):
        del sys.modules[name]
    module = importlib.import_module(name)
    parent, _, own_name = name.rpartition(".")
    setattr(sys.modules[parent], own_name, module)
    return module
