"""Writes a safetensors file from a stream of tensors, holding one at a time. Knows the file format only.

The format, as the documentation of safetensors states it: the header's length as 8 little-endian bytes, the header
as JSON padded with spaces, then all tensors end to end. The library's own `save_file` wants every tensor in
memory at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from handler.engine.weights.gguf import TensorSpec

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT_BYTES = 64


def write_safetensors(
    path: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
    advance: Callable[[int], None],
) -> None:
    """Write `tensors`, which must come in the order and with the dtypes and shapes of `specs`.

    Args:
        path: a file that does not exist yet.
        specs: every tensor of the file.
        tensors: their values, on the CPU and contiguous.
        advance: is told the bytes of each tensor once written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        begin, end = end, end + _size_bytes(spec)
        header[spec.name] = {
            "dtype": _DTYPE_NAMES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT_BYTES)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for spec, (name, tensor) in zip(specs, tensors, strict=True):
            assert (name, tensor.dtype, tuple(tensor.shape)) == (spec.name, spec.dtype, spec.shape)
            tensor.view(torch.uint8).numpy().tofile(file)
            advance(_size_bytes(spec))


def _size_bytes(spec: TensorSpec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize
