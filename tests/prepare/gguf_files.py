"""Writes models as GGUF files the way llama.cpp's convert_hf_to_gguf.py does, for reading them back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import PreTrainedModel

from tests.tiny_models import byte_tokenizer

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
F32 = gguf.GGMLQuantizationType.F32


def write_gguf(
    model: PreTrainedModel,
    path: Path,
    *,
    kind: gguf.GGMLQuantizationType = F32,
    metadata: Mapping[str, Any] | None = None,
    extra_tensors: Mapping[str, np.ndarray] | None = None,
    pre: str = "qwen2",
    merges: list[str] | None = None,
    left_out: str | None = None,
) -> Path:
    """The model as a GGUF file. `kind` is the type of its matrices; `metadata` is added as it is."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    _add_tokenizer(writer, pre, merges or ["a b"])
    for key, value in (metadata or {}).items():
        _add(writer, key, value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == left_out or (name == "lm_head.weight" and config.tie_word_embeddings):
            continue
        values = tensor
        if architecture == "llama" and ".q_proj." in name:
            values = _permute(tensor, config.num_attention_heads)
        if architecture == "llama" and ".k_proj." in name:
            values = _permute(tensor, config.num_key_value_heads)
        gguf_name = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None
        stored = kind if values.dim() == 2 else F32
        data = gguf.quants.quantize(values.float().numpy(), stored)
        writer.add_tensor(gguf_name, data, raw_dtype=stored)
    for gguf_name, data in (extra_tensors or {}).items():
        writer.add_tensor(gguf_name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_divisors(head_dim: int, theta: float, factor: float, context: int = 8192) -> np.ndarray:
    """What the converter writes as rope_freqs.weight for low_freq_factor 1 and high_freq_factor 4."""
    divisors = []
    for pair in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (pair / head_dim)
        if wavelength < context / 4:
            divisors.append(1.0)
        elif wavelength > context:
            divisors.append(factor)
        else:
            smooth = (context / wavelength - 1) / 3
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def _permute(weights: torch.Tensor, heads: int) -> torch.Tensor:
    """`LlamaModel.permute` of convert_hf_to_gguf.py."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str, merges: list[str]) -> None:
    vocab = byte_tokenizer().get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = len(tokens) - 3
    tokens[255] = "ab"  # no text in UTF-8 holds byte 255, and a tokenizer needs a merge
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * special + [3] * 3)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(special + 1)
    writer.add_eos_token_id(special + 2)
    writer.add_pad_token_id(special)
    writer.add_chat_template("{{ messages[0].content }}")


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, list):
        del writer.kv_data[0][key]  # instead of the one that is there
        writer.add_array(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)
