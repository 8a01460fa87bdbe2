"""Finds the compiled kernels, asks whether this CPU can run them, and declares their functions and structs to ctypes.

ctypes releases the interpreter's lock during a call: while a step computes, the event loop runs.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
from ctypes import POINTER, c_float, c_int32, c_void_p
from pathlib import Path

from handler.errors import EngineError

BLOCK_TOKENS = 32
"""PL_BLOCK_TOKENS."""

LANES = 16
"""PL_LANES."""

MAX_QUERIES = 48
"""PL_MAX_QUERIES."""


MAX_ITEMS = 2**18 - 1
"""PL_MAX_ITEMS."""


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


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The kernels with their signatures, or None: not compiled into this installation, or not for this CPU.

    Raises:
        EngineError: they were compiled from older sources.
    """
    path = _path()
    return None if path is None else open_library(path)


def open_library(path: Path) -> ctypes.CDLL | None:
    """The kernels in that file; see `load_library`."""
    library = ctypes.CDLL(str(path))
    try:
        return _declared(library)
    except AttributeError as error:
        raise EngineError(
            f"{path.name} was compiled from older sources ({error}); install Pilotlight again to build it"
        ) from error


def _declared(library: ctypes.CDLL) -> ctypes.CDLL | None:
    library.pl_is_supported.restype = ctypes.c_int
    if not library.pl_is_supported():
        return None
    library.pl_decoder_create.argtypes = (POINTER(Model), ctypes.c_int, ctypes.c_int)
    library.pl_decoder_create.restype = c_void_p
    library.pl_decoder_destroy.argtypes = (c_void_p,)
    library.pl_decoder_destroy.restype = None
    library.pl_decoder_step.argtypes = (c_void_p, POINTER(Step))
    library.pl_decoder_step.restype = None
    library.pl_mask_rows.argtypes = (c_void_p, ctypes.c_int, c_void_p, ctypes.c_int, c_void_p)
    library.pl_mask_rows.restype = None
    return library


def _path() -> Path | None:
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.is_file():
            return path
    return None
