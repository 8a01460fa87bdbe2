"""Compiles every kernel for one GPU architecture, down to machine code; needs no GPU. Run by `test_compiling.py`."""

from __future__ import annotations

import sys
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from handler.engine.cuda.kernels import activation, argmax, decode, norm, rotary

HOPPER = GPUTarget("cuda", 90, 32)
SPLITS = {"DIM": 128, "PADDED_DIM": 128, "TILE": 64, "MAX_SPLITS": 32, "MIN_TILES": 2}


def compile_kernel(kernel: Any, types: str, **constants: object) -> None:
    """`types` of the arguments that are not compile-time constants, in their order."""
    remaining = iter(types.split())
    signature = {name: "constexpr" if name in constants else next(remaining) for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    triton.compile(ASTSource(fn=kernel, signature=signature, constexprs=places), target=HOPPER)
    sys.stdout.write(f"{kernel.__name__}\n")


for x in ("*fp32", "*bf16"):
    for flag in (True, False):
        compile_kernel(norm._add_norm, f"{x} {x} {x} {x} {x} i32 fp32", HAS_UPDATE=flag, BLOCK=1024)
        rotary_types = f"{x} {x} {x} {x} {x} *i64 {x} {x} {x} i32 i32 i32 fp32"
        compile_kernel(rotary._rotate_and_store, rotary_types, HAS_NORM=flag, BLOCK=128)
    compile_kernel(activation._silu_mul, f"{x} {x} i32", BLOCK=1024)
    for window in (0, 4096):
        split_types = f"{x} {x} {x} *i32 *i32 *fp32 *fp32 *fp32 fp32 i32 i32"
        shape = {"BLOCK_SIZE": 256, "GROUP": 4, "ROWS": 16, "WINDOW": window}
        compile_kernel(decode._attend_split, split_types, **shape, **SPLITS)
        compile_kernel(decode._merge_splits, f"*fp32 *fp32 *fp32 *i32 {x} i32", WINDOW=window, **SPLITS)
compile_kernel(argmax._argmax_part, "*fp32 *fp32 *i32 i32 i32", BLOCK=4096)
compile_kernel(argmax._argmax_of_parts, "*fp32 *i32 *i64 i32 i32", BLOCK=32)
