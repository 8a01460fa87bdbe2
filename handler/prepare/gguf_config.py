"""Writes down what a GGUF file's metadata says, as config.json and generation_config.json of Hugging Face.

Knows the metadata keys of the architectures that `handler.engine.weights.gguf` streams. A key that it cannot
translate exactly is refused by name: a model that runs with half of its configuration is wrong without a
sound.
"""

from __future__ import annotations

from collections.abc import Container

from handler.engine.weights.gguf import GgufFile
from handler.errors import UnsupportedModelError
from handler.prepare.gguf_rope import rope_scaling
from handler.prepare.gguf_values import integer_of, shortest, value_of

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_KNOWN_KEYS = frozenset(
    {
        "attention.head_count",
        "attention.head_count_kv",
        "attention.key_length",
        "attention.layer_norm_rms_epsilon",
        "attention.value_length",
        "block_count",
        "context_length",
        "embedding_length",
        "expert_count",
        "expert_used_count",
        "feed_forward_length",
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scaling.attn_factor",
        "rope.scaling.factor",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
        "vocab_size",
    }
)


def config_of(file: GgufFile) -> dict[str, object]:
    """The model's config.json.

    Raises:
        UnsupportedModelError: the metadata asks for something that config.json cannot say.
        CorruptSnapshotError: a key that every model has is missing.
    """
    architecture = file.architecture
    _refuse_unknown(file)
    hidden_size = integer_of(file, "embedding_length")
    heads = integer_of(file, "attention.head_count")
    head_dim = integer_of(file, "attention.key_length", hidden_size // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if integer_of(file, key, head_dim) != head_dim:
            raise UnsupportedModelError(
                f"GGUF {architecture}.{key}", value_of(file, key), [f"{head_dim}, the head's size"]
            )
    shapes = {spec.name: spec for spec in file.specs}
    config: dict[str, object] = {
        "architectures": [_CLASSES[architecture]],
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": integer_of(file, "feed_forward_length"),
        "num_hidden_layers": integer_of(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": integer_of(file, "attention.head_count_kv", heads),
        "head_dim": head_dim,
        "vocab_size": shapes["model.embed_tokens.weight"].shape[0],
        "max_position_embeddings": integer_of(file, "context_length"),
        "rms_norm_eps": shortest(value_of(file, "attention.layer_norm_rms_epsilon")),
        "rope_theta": shortest(value_of(file, "rope.freq_base", 10000.0)),
        "rope_scaling": rope_scaling(file, head_dim),
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        "dtype": str(shapes["model.layers.0.mlp.down_proj.weight"].dtype).removeprefix("torch."),
        **_biases(architecture, shapes),
    }
    return config | special_token_ids(file)


def special_token_ids(file: GgufFile) -> dict[str, int]:
    """bos_token_id, eos_token_id and pad_token_id, those that the file names."""
    names = {
        "bos_token_id": "bos_token_id",
        "eos_token_id": "eos_token_id",
        "pad_token_id": "padding_token_id",
    }
    ids = {name: file.metadata(f"tokenizer.ggml.{key}", None) for name, key in names.items()}
    return {name: int(token_id) for name, token_id in ids.items() if token_id is not None}


def generation_config_of(file: GgufFile) -> dict[str, object]:
    """The model's generation_config.json: the ids above, a separate end-of-turn token counting as an end."""
    config: dict[str, object] = dict(special_token_ids(file))
    ends = [file.metadata(f"tokenizer.ggml.{key}_token_id", None) for key in ("eos", "eot", "eom")]
    distinct = list(dict.fromkeys(int(end) for end in ends if end is not None))
    if len(distinct) > 1:
        config["eos_token_id"] = distinct
    return config


def _refuse_unknown(file: GgufFile) -> None:
    prefix = f"{file.architecture}."
    for key in file.metadata_keys:
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and name not in _KNOWN_KEYS:
            raise UnsupportedModelError("GGUF metadata", key, _KNOWN_KEYS)
    if value_of(file, "expert_count", 0):
        raise UnsupportedModelError("GGUF model", "mixture of experts", ["dense"])


def _biases(architecture: str, shapes: Container[str]) -> dict[str, bool]:
    """Which projections have biases. Qwen2 always has them on q, k and v; its config has no word for it."""
    attention = [f"model.layers.0.self_attn.{name}_proj.bias" in shapes for name in "qkvo"]
    mlp = [f"model.layers.0.mlp.{name}_proj.bias" in shapes for name in ("gate", "up", "down")]
    if architecture == "qwen2":
        if attention != [True, True, True, False] or any(mlp):
            raise UnsupportedModelError("GGUF biases of qwen2", "other", ["q, k and v"])
        return {}
    if len(set(attention)) > 1 or len(set(mlp)) > 1 or (architecture == "qwen3" and any(mlp)):
        raise UnsupportedModelError(f"GGUF biases of {architecture}", "some", ["all of attention or MLP", "none"])
    return {"attention_bias": attention[0]} | ({"mlp_bias": mlp[0]} if architecture == "llama" else {})
