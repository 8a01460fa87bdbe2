"""Random tiny models of every known architecture, saved as transformers saves them, beside a byte tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, pre_tokenizers

VOCAB_SIZE = 259
END_TOKEN = 258

SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "bos_token_id": 257,
    "eos_token_id": END_TOKEN,
    "pad_token_id": None,
}

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

GEMMA = {
    "head_dim": 16,
    "query_pre_attn_scalar": 24,
    "sliding_window": 40,
    "num_hidden_layers": 4,
    "final_logit_softcapping": 3.0,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.5] * 8,
    "long_factor": [4.0] * 8,
    "original_max_position_embeddings": 256,
}
LATENT_ATTENTION = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-head-dim": ("Llama", {"head_dim": 32}),
    "llama-llama3-rope": ("Llama", {"rope_parameters": LLAMA3_ROPE}),
    "llama-linear-rope": ("Llama", {"rope_parameters": LINEAR_ROPE}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 40}),
    "qwen2": ("Qwen2", {}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 1}),
    "qwen2-yarn": ("Qwen2", {"rope_parameters": YARN_ROPE}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3-tied-biases": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True, "attention_bias": True}),
}


FOREIGN_VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", GEMMA | {"attn_logit_softcapping": 2.0}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", GEMMA | {"num_hidden_layers": 7}),
    "phi": ("PhiConfig", "PhiForCausalLM", {"num_key_value_heads": 4}),
    "phi3-long-rope": (
        "Phi3Config",
        "Phi3ForCausalLM",
        {"rope_parameters": LONG_ROPE, "original_max_position_embeddings": 256},
    ),
    "phi-dynamic-rope": (
        "PhiConfig",
        "PhiForCausalLM",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {"rotary_pct": 0.5}),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_inner": 96, "tie_word_embeddings": True}),
    "opt": ("OPTConfig", "OPTForCausalLM", {"ffn_dim": 96, "word_embed_proj_dim": 64}),
    "qwen2-moe": (
        "Qwen2MoeConfig",
        "Qwen2MoeForCausalLM",
        EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 48},
    ),
    "deepseek-v3": ("DeepseekV3Config", "DeepseekV3ForCausalLM", EXPERTS | LATENT_ATTENTION),
    "afmoe": ("AfmoeConfig", "AfmoeForCausalLM", EXPERTS | {"head_dim": 16, "num_experts": 4, "sliding_window": 40}),
    "llama-gelu": ("LlamaConfig", "LlamaForCausalLM", {"hidden_act": "gelu"}),
}
"""Name of the variant: configuration class, model class and what differs from SHAPE."""


def make_model(variant: str, seed: int = 0) -> transformers.PreTrainedModel:
    """A float32 model in evaluation mode whose biases and norms are random too."""
    if variant in VARIANTS:
        family, overrides = VARIANTS[variant]
        config_class, model_class = f"{family}Config", f"{family}ForCausalLM"
    else:
        config_class, model_class, overrides = FOREIGN_VARIANTS[variant]
    config = getattr(transformers, config_class)(**(SHAPE | overrides))
    torch.manual_seed(seed)
    model = getattr(transformers, model_class)(config).float().eval()
    if variant in FOREIGN_VARIANTS:
        model.set_attn_implementation("eager")  # as sdpa, transformers 5.17 leaves soft caps out in silence
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def save_model(model: transformers.PreTrainedModel, directory: Path, *, max_shard_size: str = "50GB") -> Path:
    """What `save_pretrained` writes, with a tokenizer of one token per byte."""
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def byte_tokenizer() -> tokenizers.Tokenizer:
    """Token id = byte value; three special tokens follow."""
    alphabet = _byte_alphabet()
    vocab = {character: byte for byte, character in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|pad|>", "<|start|>", "<|end|>"])
    return tokenizer


def _byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte (`bytes_to_unicode`)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
