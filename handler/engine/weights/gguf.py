"""Streams the tensors of a GGUF file under their Hugging Face names, one at a time.

Knows the tensor names and row orders of the `llama` (Llama and Mistral), `qwen2` and `qwen3` architectures;
knows nothing of tokenizers, configs and where the tensors go. Only `handler.prepare` imports it, in the
calling thread: a prepared snapshot is safetensors, and serving reads those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import quants

from handler.engine.weights.gguf_header import check_gguf
from handler.engine.weights.specs import TensorSpec
from handler.errors import CorruptSnapshotError, SnapshotError, UnsupportedModelError

ARCHITECTURES = {
    "llama": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2,
    "qwen3": gguf.MODEL_ARCH.QWEN3,
}
ROPE_FREQUENCIES = "rope_freqs.weight"  # rope scaling as a tensor; belongs to the config, not to the weights

_OUTER_MODULES = ("model.embed_tokens", "model.norm", "lm_head")
_LAYER_MODULES = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
_FLOAT16_MAX = float(np.finfo(np.float16).max)
_ROWS_BYTES = 64 << 20  # float32 bytes to dequantise in one go
_PLAIN = {
    gguf.GGMLQuantizationType.F32: torch.float32,
    gguf.GGMLQuantizationType.F16: torch.float16,
    gguf.GGMLQuantizationType.BF16: torch.bfloat16,
}


class GgufFile:
    """An open GGUF file: its metadata, the specs of its tensors, and the tensors as a stream.

    Raises:
        CorruptSnapshotError: the file is no GGUF, is truncated or lacks a tensor.
        UnsupportedModelError: its architecture or one of its tensor types is outside the list.
        SnapshotError: it holds a tensor that has no place in this architecture, or is one part of several.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_gguf(path)
        self._reader = _open(path)
        self.architecture = str(self.metadata("general.architecture"))
        if self.architecture not in ARCHITECTURES:
            raise UnsupportedModelError("GGUF architecture", self.architecture, ARCHITECTURES)
        if int(self.metadata("split.count", 1)) > 1:
            raise SnapshotError(f"{path} is one of several parts; merge them first (llama-gguf-split --merge)")
        self._tensors = self._by_hugging_face_name()

    def metadata(self, key: str, *default: Any) -> Any:
        """The value under `key`, as int, float, str, bool or list of these.

        Raises:
            CorruptSnapshotError: the key is absent and no default is given.
        """
        field = self._reader.get_field(key)
        if field is not None:
            try:
                return field.contents()
            except ValueError as error:  # no UTF-8
                raise CorruptSnapshotError(f"{self.path}: {key!r} cannot be read: {error}") from error
        if not default:
            raise CorruptSnapshotError(f"{self.path} has no {key!r} in its metadata")
        return default[0]

    @property
    def metadata_keys(self) -> list[str]:
        """Names of all metadata."""
        return list(self._reader.fields)

    def rope_frequencies(self) -> list[float] | None:
        """The divisors of the rotary frequencies, one for each pair of a head, where the file holds any."""
        for tensor in self._reader.tensors:
            if tensor.name == ROPE_FREQUENCIES:
                return [float(value) for value in tensor.data]
        return None

    @property
    def specs(self) -> list[TensorSpec]:
        """Every tensor, wide dtypes first, so that each is aligned when they are laid end to end."""
        specs = [
            TensorSpec(name, _dtype(name, tensor), tuple(int(size) for size in reversed(tensor.shape)))
            for name, tensor in self._tensors.items()
        ]
        return sorted(specs, key=lambda spec: -spec.dtype.itemsize)

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors in the order of `specs`: F32, F16 and BF16 as they are, quantised ones as float16.

        Raises:
            SnapshotError: a value does not fit float16, or heads do not divide the rows; names the tensor.
        """
        for spec in self.specs:
            values = _values(spec, self._tensors[spec.name])
            heads = self._permuted_heads(spec.name)
            if heads is not None and (heads < 1 or spec.shape[0] % (2 * heads)):
                raise CorruptSnapshotError(f"{self.path}: {spec.name} has {spec.shape[0]} rows, and {heads} heads")
            yield spec.name, values if heads is None else _unpermute(values, heads)

    def _by_hugging_face_name(self) -> dict[str, gguf.ReaderTensor]:
        architecture = ARCHITECTURES[self.architecture]
        layers = int(self.metadata(f"{self.architecture}.block_count"))
        if not 0 <= layers <= len(self._reader.tensors):
            raise CorruptSnapshotError(f"{self.path}: {layers} layers, and {len(self._reader.tensors)} tensors")
        names = gguf.get_tensor_name_map(architecture, layers)
        modules = list(_OUTER_MODULES)
        modules += [f"model.layers.{layer}.{module}" for layer in range(layers) for module in _LAYER_MODULES]
        by_gguf_name = {names.get_name(module): module for module in modules}
        by_gguf_name.pop(None, None)  # a module that this architecture does not have
        tensors: dict[str, gguf.ReaderTensor] = {}
        for tensor in self._reader.tensors:
            module, _, kind = tensor.name.rpartition(".")
            if tensor.name == ROPE_FREQUENCIES:
                continue
            if module not in by_gguf_name or kind not in {"weight", "bias"}:
                raise SnapshotError(f"{self.path}: tensor {tensor.name!r} has no place in {self.architecture!r}")
            tensors[f"{by_gguf_name[module]}.{kind}"] = tensor
        for module in by_gguf_name.values():
            if module != "lm_head" and f"{module}.weight" not in tensors:  # without it, the embedding is used
                raise CorruptSnapshotError(f"{self.path} has no tensor for {module}.weight")
        return tensors

    def _permuted_heads(self, name: str) -> int | None:
        """The heads that this tensor's rows belong to, where llama.cpp's converter has reordered them."""
        if self.architecture != "llama":
            return None
        heads = int(self.metadata("llama.attention.head_count"))
        if ".q_proj." in name:
            return heads
        return int(self.metadata("llama.attention.head_count_kv", heads)) if ".k_proj." in name else None


def _open(path: Path) -> gguf.GGUFReader:
    try:
        reader = gguf.GGUFReader(path)
    except OSError as error:
        raise SnapshotError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError) as error:
        raise CorruptSnapshotError(f"{path} is no intact GGUF file: {error}") from error
    return reader


def _dtype(name: str, tensor: gguf.ReaderTensor) -> torch.dtype:
    if tensor.tensor_type in _PLAIN:
        return _PLAIN[tensor.tensor_type]
    if tensor.tensor_type.name.startswith(("Q", "IQ", "TQ", "MXFP")):
        return torch.float16
    raise UnsupportedModelError(f"GGUF type of {name}", tensor.tensor_type.name, ["F32", "F16", "BF16", "quantised"])


def _values(spec: TensorSpec, tensor: gguf.ReaderTensor) -> torch.Tensor:
    if tensor.tensor_type in _PLAIN:
        raw = torch.from_numpy(np.ascontiguousarray(tensor.data).view(np.uint8).copy())
        return raw.view(spec.dtype).reshape(spec.shape)
    values = np.empty(spec.shape, dtype=np.float16)
    rows, row_values = values.reshape(-1, spec.shape[-1]), tensor.data.reshape(-1, tensor.data.shape[-1])
    step = max(1, _ROWS_BYTES // (4 * spec.shape[-1]))
    for start in range(0, len(rows), step):
        try:
            wide = quants.dequantize(row_values[start : start + step], tensor.tensor_type)
        except NotImplementedError as error:
            raise UnsupportedModelError(
                f"GGUF type of {spec.name}", tensor.tensor_type.name, ["Q4_K", "Q8_0"]
            ) from error
        if not np.abs(wide).max() <= _FLOAT16_MAX:  # also true of NaN
            raise SnapshotError(f"tensor {spec.name!r} holds values that do not fit float16")
        rows[start : start + step] = wide
    return torch.from_numpy(values)


def _unpermute(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo what llama.cpp's convert_hf_to_gguf.py calls `permute`: a head's two halves are interleaved."""
    return values.reshape(heads, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape).contiguous()
