"""Writes a safetensors file from a stream of tensors, holding one at a time. Knows the file format only.

The format, as the documentation of safetensors states it: the header's length as 8 little-endian bytes, the header
as JSON padded with spaces, then all tensors end to end. The library's own `save_file` wants every tensor in
memory at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from handler.engine.weights.specs import TensorSpec

_DTYPE_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8"}
_ALIGNMENT_BYTES = 64


def write_safetensors(
    path: Path,
    specs: Sequence[TensorSpec],
    tensors: Iterable[tuple[str, torch.Tensor]],
    advance: Callable[[int], None],
) -> None:
    """Write `tensors`, which lie in the file in the order of `specs`, whatever order they come in.

    Args:
        path: a file that does not exist yet.
        specs: every tensor of the file.
        tensors: their values, on the CPU and contiguous.
        advance: is told the bytes of each tensor once written.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places: dict[str, tuple[TensorSpec, int]] = {}
    end = 0
    for spec in specs:
        begin, end = end, end + spec.size_bytes
        places[spec.name] = (spec, begin)
        header[spec.name] = {
            "dtype": _DTYPE_NAMES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT_BYTES)
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors:
            spec, offset = places.pop(name)
            assert (tensor.dtype, tuple(tensor.shape)) == (spec.dtype, spec.shape)
            file.seek(8 + len(text) + offset)
            file.write(tensor.flatten().view(torch.uint8).numpy().data)
            advance(spec.size_bytes)
    assert not places, "every tensor of the file was written"
