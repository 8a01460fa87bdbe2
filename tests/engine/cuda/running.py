"""Puts a CUDA runner under a loaded core, and runs steps ahead of what the host knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from handler.engine.config import parse_config
from handler.engine.core import EngineCore
from handler.engine.cuda.kernel_set import KernelSet, plain_kernels
from handler.engine.cuda.runner import CudaRunner
from handler.engine.kv_cache import KvCache
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import Chunk

T = TypeVar("T")


class CountedCapture:
    """A capture for devices without graphs: repeats the computation, and counts."""

    def __init__(self) -> None:
        self.captures = 0
        self.replays = 0

    def __call__(self, compute: Callable[[], T]) -> Callable[[], T]:
        self.captures += 1

        def replay() -> T:
            self.replays += 1
            return compute()

        return replay


def with_cuda_runner(
    core: EngineCore, *, max_batch_size: int, kernels: KernelSet | None = None, capture: CountedCapture | None = None
) -> CudaRunner:
    """Replace the core's runner by a CUDA runner over the same decoder and cache."""
    old = core._runner
    decoder, cache, sampler = old._decoder, old._cache, old._sampler
    kernels = kernels or plain_kernels()
    decoder._kernels = kernels.elementwise
    runner = CudaRunner(
        decoder,
        cache,
        kernels,
        sampler,
        capture or CountedCapture(),
        device=old._device,
        max_batch_size=max_batch_size,
        max_blocks=-(-core.model.info.max_model_len // cache.block_size),
    )
    core._runner = runner
    return runner


def sequences_with_blocks(prompts: list[list[int]], params: list[SamplingParams], *, room: int) -> list[Sequence]:
    """Sequences that own their blocks, of 32 tokens or more, for the prompt and `room` more; as if just scheduled."""
    sequences = []
    next_block = 1
    for number, (prompt, own) in enumerate(zip(prompts, params, strict=True)):
        sequence = Sequence(number, prompt, own)
        count = -(-(len(prompt) + room) // 32)
        sequence.block_table = list(range(next_block, next_block + count))
        next_block += count
        sequences.append(sequence)
    return sequences


def generate_ahead(runner: CudaRunner, sequences: list[Sequence], num_tokens: int) -> list[list[int]]:
    """Tokens of every sequence, each step launched before the one before it was waited for."""
    pending = runner.launch([Chunk(sequence, 0, len(sequence)) for sequence in sequences])
    for _ in range(num_tokens - 1):
        ahead = [Chunk(sequence, len(sequence), 1) for sequence in sequences]
        assert all(chunk.is_ahead for chunk in ahead)
        following = runner.launch(ahead)
        _accept(pending.wait())
        pending = following
    _accept(pending.wait())
    return [sequence.tokens[sequence.num_prompt_tokens :] for sequence in sequences]


def _accept(sampled: list[tuple[Sequence, list]]) -> None:
    for sequence, [token] in sampled:
        sequence.tokens.append(token.token_id)


def cache_of(num_kv_heads: int, head_dim: int, block: int, dtype: torch.dtype, device: torch.device) -> KvCache:
    """Six blocks of two layers."""
    raw = {
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 9,
        "hidden_size": head_dim,
        "intermediate_size": 9,
        "num_hidden_layers": 2,
        "num_attention_heads": num_kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": 64,
    }
    return KvCache(parse_config(raw), 6, block, device, dtype)
