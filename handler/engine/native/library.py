"""Finds the compiled kernels, asks which of them this CPU can run, and declares their functions and structs to ctypes.

ctypes releases the interpreter's lock during a call: while a step computes, the event loop runs.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from collections.abc import Callable
from ctypes import POINTER, c_float, c_int32, c_void_p
from pathlib import Path
from typing import Any, NamedTuple

from handler.errors import EngineError

BLOCK_TOKENS = 32
"""PL_BLOCK_TOKENS."""

LANES = 16
"""PL_LANES."""

MAX_QUERIES = 48
"""PL_MAX_QUERIES."""

MAX_ITEMS = 2**18 - 1
"""PL_MAX_ITEMS."""

INSTRUCTION_SETS = {"avx512": "AVX-512 VNNI", "avx2": "AVX2"}
"""What names of functions end in, and what people call it; the fastest first."""


class Linear(ctypes.Structure):
    """pl_linear."""

    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("out_features", c_int32),
        ("in_features", c_int32),
    )


class Span(ctypes.Structure):
    """pl_span."""

    _fields_ = (
        ("first_row", c_int32),
        ("num_rows", c_int32),
        ("first_position", c_int32),
        ("block_table", c_void_p),
    )


class Layer(ctypes.Structure):
    """pl_layer."""

    _fields_ = (
        ("qkv", Linear),
        ("output", Linear),
        ("gate_up", Linear),
        ("down", Linear),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("window", c_int32),
    )


class Model(ctypes.Structure):
    """pl_model."""

    _fields_ = (
        ("hidden_size", c_int32),
        ("intermediate_size", c_int32),
        ("num_layers", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("down_digits", c_int32),
        ("rms_norm_eps", c_float),
        ("embedding", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("layers", POINTER(Layer)),
        ("head", Linear),
    )


class Step(ctypes.Structure):
    """pl_step."""

    _fields_ = (
        ("num_rows", c_int32),
        ("num_spans", c_int32),
        ("num_logit_rows", c_int32),
        ("tokens", c_void_p),
        ("spans", POINTER(Span)),
        ("logit_rows", c_void_p),
        ("logits", c_void_p),
    )


class Kernels(NamedTuple):
    """The functions that Python calls, compiled to one set of instructions."""

    instructions: str
    decoder_create: Callable[..., int | None]
    decoder_destroy: Callable[..., None]
    decoder_step: Callable[..., None]
    mask_rows: Callable[..., None]


@functools.cache
def load_kernels() -> Kernels | None:
    """The fastest kernels that this CPU can run, or None: not compiled into this installation, or not for this CPU.

    Raises:
        EngineError: they were compiled from older sources.
    """
    path = kernels_path()
    return None if path is None else next(iter(open_library(path)), None)


def open_library(path: Path) -> list[Kernels]:
    """All kernels in that file that this CPU can run, the fastest first; see `load_kernels`."""
    library = ctypes.CDLL(str(path))
    try:
        return [
            declare(library, ending, instructions)
            for ending, instructions in INSTRUCTION_SETS.items()
            if library[f"pl_is_supported_{ending}"]()
        ]
    except AttributeError as error:
        raise EngineError(
            f"{path.name} was compiled from older sources ({error}); install Pilotlight again to build it"
        ) from error


def declare(library: ctypes.CDLL, ending: str, instructions: str) -> Kernels:
    """The functions whose names have that ending, with their signatures."""

    def function(name: str, result: type[c_void_p] | None, *arguments: Any) -> Callable[..., Any]:
        found = library[f"{name}_{ending}"]
        found.restype, found.argtypes = result, arguments
        return found

    return Kernels(
        instructions,
        decoder_create=function("pl_decoder_create", c_void_p, POINTER(Model), ctypes.c_int, ctypes.c_int),
        decoder_destroy=function("pl_decoder_destroy", None, c_void_p),
        decoder_step=function("pl_decoder_step", None, c_void_p, POINTER(Step)),
        mask_rows=function("pl_mask_rows", None, c_void_p, ctypes.c_int, c_void_p, ctypes.c_int, c_void_p),
    )


def kernels_path() -> Path | None:
    """The compiled file, where there is one."""
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.is_file():
            return path
    return None
