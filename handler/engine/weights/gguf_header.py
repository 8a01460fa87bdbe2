"""Walks the header of a GGUF file before anything is made of it: every count and size must fit into the file.

The gguf library believes what a header says: an array of 2^60 elements in a file that ends keeps it busy for ever.
The format is ggml's docs/gguf.md. Knows no keys but the alignment's, and nothing of what tensors are for.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

import gguf
import msgspec

from handler.errors import CorruptSnapshotError, SnapshotError, UnsupportedModelError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _STRING, _ARRAY = 4, 8, 9
_ALIGNMENT_KEY = b"general.alignment"
_DEFAULT_ALIGNMENT = 32
_MAX_ALIGNMENT = 1 << 16
_MAX_KEYS = 1 << 16
_MAX_TENSORS = 1 << 16
_MAX_ELEMENTS = 1 << 22
"""Of all arrays together: a vocabulary of 256,000 tokens has 1.3 million, and the library makes objects of each."""
_MAX_DIMENSIONS = 4


class _Span(msgspec.Struct, frozen=True):
    """Where a tensor's data lies, from the beginning of all data."""

    name: str
    begin: int
    end: int


def check_gguf(path: Path) -> None:
    """Raise what is wrong with the file's header, whose parts must fit into each other and into the file.

    Raises:
        SnapshotError: the file cannot be read.
        CorruptSnapshotError: it is no GGUF, or its header says what cannot be.
        UnsupportedModelError: it is of another version, or for machines of another byte order.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _Header(path, data).check()
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # an empty file
        raise CorruptSnapshotError(f"{path} is no intact GGUF file: {error}") from error


class _Header:
    """Reads one header from its first byte to its last."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._position = 0
        self._num_elements = 0

    def check(self) -> None:
        if self._take(len(_MAGIC)) != _MAGIC:
            raise self._corrupt("it does not begin with GGUF")
        version = self._integer("<I")
        if version & 0xFFFF == 0:
            raise UnsupportedModelError("GGUF byte order", "swapped", ["this machine's own"])
        if version not in _VERSIONS:
            raise UnsupportedModelError("GGUF version", version, map(str, _VERSIONS))
        num_tensors = self._count("tensors", _MAX_TENSORS)
        num_keys = self._count("keys", _MAX_KEYS)
        alignment = _DEFAULT_ALIGNMENT
        for _ in range(num_keys):
            key, kind = self._string(), self._integer("<I")
            if key == _ALIGNMENT_KEY and kind == _UINT32:
                alignment = self._integer("<I")
            else:
                self._skip(kind)
        if not (0 < alignment <= _MAX_ALIGNMENT) or alignment & (alignment - 1):
            raise self._corrupt(f"its alignment is {alignment}")
        spans = [self._tensor(alignment) for _ in range(num_tensors)]
        first = -(-self._position // alignment) * alignment
        self._check_spans(spans, len(self._data) - first)

    def _tensor(self, alignment: int) -> _Span:
        name = self._string().decode(errors="replace")
        num_dimensions = self._integer("<I")
        if not 1 <= num_dimensions <= _MAX_DIMENSIONS:
            raise self._corrupt(f"tensor {name!r} has {num_dimensions} dimensions")
        shape = [self._integer("<Q") for _ in range(num_dimensions)]
        kind, begin = self._integer("<I"), self._integer("<Q")
        try:
            block, block_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
        except (ValueError, KeyError) as error:
            raise self._corrupt(f"tensor {name!r} is of the unknown type {kind}") from error
        if not all(shape) or shape[0] % block:
            raise self._corrupt(f"tensor {name!r} has the shape {shape}")
        if begin % alignment:
            raise self._corrupt(f"tensor {name!r} is not aligned")
        return _Span(name, begin, begin + math.prod(shape) // block * block_bytes)

    def _check_spans(self, spans: list[_Span], num_bytes: int) -> None:
        end = 0
        for span in sorted(spans, key=lambda span: span.begin):
            if span.begin < end:
                raise self._corrupt(f"tensor {span.name!r} lies over another one")
            if span.end > num_bytes:
                raise self._corrupt(f"tensor {span.name!r} ends behind the file")
            end = span.end

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            self._skip_array()
        else:
            self._take(self._scalar_bytes(kind))

    def _skip_array(self) -> None:
        kind, count = self._integer("<I"), self._integer("<Q")
        self._num_elements += count
        if self._num_elements > _MAX_ELEMENTS:
            raise self._corrupt(f"its arrays have more than {_MAX_ELEMENTS} elements")
        if kind == _STRING:
            for _ in range(count):
                self._string()
        else:
            self._take(count * self._scalar_bytes(kind))

    def _scalar_bytes(self, kind: int) -> int:
        if kind not in _SCALAR_BYTES:
            raise self._corrupt(f"there is no value of type {kind} here")
        return _SCALAR_BYTES[kind]

    def _string(self) -> bytes:
        return self._take(self._integer("<Q"))

    def _count(self, what: str, most: int) -> int:
        count = self._integer("<Q")
        if count > most:
            raise self._corrupt(f"it has {count} {what}")
        return count

    def _integer(self, form: str) -> int:
        value: int = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _take(self, num_bytes: int) -> bytes:
        begin = self._position
        if num_bytes > len(self._data) - begin:
            raise self._corrupt(f"it ends within its header, at byte {len(self._data)}")
        self._position = begin + num_bytes
        return self._data[begin : self._position]

    def _corrupt(self, reason: str) -> CorruptSnapshotError:
        return CorruptSnapshotError(f"{self._path} is no intact GGUF file: {reason}")
