"""One loaded model and its step: schedule, run, post-process. Synchronous; `engine.py` runs it in its thread.

Importing this module imports torch; nothing that must be quick at start-up may import it.
"""

from __future__ import annotations

import time

import torch

from handler.boot import BootTimeline
from handler.engine.attention import TILE, PagedAttention
from handler.engine.blocks import BlockPool
from handler.engine.chat_template import read_chat_template
from handler.engine.config import ModelConfig, read_config
from handler.engine.cuda.backend import Backend, choose_backend
from handler.engine.cuda.graphs import CudaCapture
from handler.engine.cuda.runner import CudaRunner
from handler.engine.generation_config import read_generation_defaults
from handler.engine.kv_cache import KvCache, free_memory_bytes, plan_blocks
from handler.engine.loaded import LoadedModel
from handler.engine.loader import load_decoder
from handler.engine.output import SequenceOutput
from handler.engine.precision import Precision, resolve_precision
from handler.engine.runner import TorchRunner
from handler.engine.sampler import Sampler
from handler.engine.scheduler import Scheduler
from handler.engine.snapshot import Snapshot
from handler.engine.tokenizer import Tokenizer
from handler.engine.types import EngineOptions, EngineStats, ModelInfo, Runner, SamplingParams, Sequence, TokenEvent
from handler.engine.weights.safetensors import iter_tensors
from handler.errors import ConfigurationError, EngineError

BLOCK_TOKENS = 32


class EngineCore:
    """Everything that a step needs. Owned by one thread; no other may call it."""

    def __init__(
        self,
        *,
        runner: Runner,
        scheduler: Scheduler,
        pool: BlockPool,
        model: LoadedModel,
    ) -> None:
        self.model = model
        self._runner = runner
        self._scheduler = scheduler
        self._pool = pool
        self._end_token_ids = frozenset(model.defaults.end_token_ids)
        self._sequences: dict[int, tuple[Sequence, SequenceOutput]] = {}

    @property
    def has_work(self) -> bool:
        """Whether `step` would do anything."""
        return self._scheduler.has_work

    def add(self, sequence_id: int, prompt_tokens: list[int], params: SamplingParams) -> None:
        """Queue a sequence under an id of the caller's choice.

        Raises:
            EngineError: it has no tokens, or could outgrow the model's context and with it the cache.
        """
        if not prompt_tokens or len(prompt_tokens) + params.max_tokens > self.model.info.max_model_len:
            raise EngineError(
                f"a prompt of {len(prompt_tokens)} tokens and {params.max_tokens} more do not fit "
                f"a context of {self.model.info.max_model_len}"
            )
        sequence = Sequence(sequence_id, prompt_tokens, params)
        output = SequenceOutput(sequence, self.model.tokenizer, self._end_token_ids)
        self._sequences[sequence_id] = (sequence, output)
        self._scheduler.add(sequence)

    def cancel(self, sequence_id: int) -> None:
        """Drop a sequence and free its blocks; one that ended already is no error."""
        entry = self._sequences.pop(sequence_id, None)
        if entry is not None:
            self._scheduler.remove(entry[0])

    def cancel_all(self) -> list[int]:
        """Drop every sequence and return their ids."""
        ids = list(self._sequences)
        for sequence_id in ids:
            self.cancel(sequence_id)
        return ids

    def step(self) -> list[tuple[int, TokenEvent]]:
        """Compute one batch; (sequence id, event) for each sequence that got a token."""
        batch = self._scheduler.schedule()
        now_s = time.monotonic()
        for chunk in batch:
            if chunk.sequence.first_scheduled_s is None:
                chunk.sequence.first_scheduled_s = now_s
        sampled = self._runner.launch(batch).wait()
        for chunk in batch:
            self._scheduler.advance(chunk)
        events = []
        for sequence, [token] in sampled:
            event = self._sequences[sequence.id][1].accept(token)
            if event.finish_reason is not None:
                self.cancel(sequence.id)
            events.append((sequence.id, event))
        return events

    def idle(self) -> None:
        """Use a moment without work."""
        self._runner.idle()

    def stats(self) -> EngineStats:
        """Counts for metrics and admission."""
        scheduler, pool = self._scheduler, self._pool
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            kv_blocks_used=pool.num_used,
            kv_blocks_total=pool.num_blocks - 1,
            prefix_query_tokens=scheduler.prefix_query_tokens,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            num_preemptions=scheduler.num_preemptions,
        )


def load_core(snapshot: Snapshot, options: EngineOptions, timeline: BootTimeline) -> EngineCore:
    """Load the model and allocate everything for serving it.

    Raises:
        ConfigurationError: a setting asks for what this machine or this model does not have.
        SnapshotError: the snapshot is damaged or not supported.
    """
    config = read_config(snapshot.directory)
    precision = resolve_precision(options)
    max_model_len = _max_model_len(config, options)
    backend = _backend(config, precision, timeline)
    block_tokens = BLOCK_TOKENS if backend is None else backend.block_tokens
    tile = tile_tokens(block_tokens, options)
    with timeline.phase("tokenizer"):
        tokenizer = Tokenizer(snapshot.directory)
        chat_template = read_chat_template(snapshot.directory)
        defaults = read_generation_defaults(snapshot.directory)
    with timeline.phase("weights"), torch.inference_mode():
        kernels = None if backend is None else backend.elementwise
        decoder = load_decoder(config, iter_tensors(snapshot.directory), precision, max_model_len, kernels)
    with timeline.phase("kv_cache"):
        num_blocks = plan_blocks(
            config,
            max_model_len=max_model_len,
            max_batch_size=options.max_batch_size,
            block_size=block_tokens,
            free_bytes=free_memory_bytes(precision.device),
            fraction=options.kv_cache_fraction,
            dtype=precision.dtype,
        )
        with torch.inference_mode():
            cache = KvCache(config, num_blocks, block_tokens, precision.device, precision.dtype)
    sampler = Sampler(config.vocab_size, defaults.end_token_ids, precision.device)
    runner: Runner
    if backend is None:
        attention = PagedAttention(config.sliding_windows, block_tokens, precision.device, precision.dtype)
        runner = TorchRunner(decoder, cache, attention, sampler, precision.device)
    else:
        runner = CudaRunner(
            decoder,
            cache,
            backend,
            sampler,
            CudaCapture(precision.device),
            device=precision.device,
            max_batch_size=options.max_batch_size,
            max_blocks=-(-max_model_len // block_tokens),
        )
    pool = BlockPool(num_blocks)
    scheduler = Scheduler(
        pool,
        block_size=block_tokens,
        tile=tile,
        max_batch_size=options.max_batch_size,
        prefill_chunk_tokens=options.prefill_chunk_tokens,
    )
    core = EngineCore(
        runner=runner,
        scheduler=scheduler,
        pool=pool,
        model=LoadedModel(
            info=ModelInfo(
                name=snapshot.name,
                architecture=config.architecture,
                device=str(precision.device),
                dtype=str(precision.dtype).removeprefix("torch."),
                quantization=precision.quantization,
                vocab_size=config.vocab_size,
                max_model_len=max_model_len,
                kv_cache_tokens=(num_blocks - 1) * block_tokens,
            ),
            tokenizer=tokenizer,
            chat_template=chat_template,
            defaults=defaults,
        ),
    )
    with timeline.phase("warm_up"):
        core.add(-1, [0, 0], SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True))
        while core.has_work:
            core.step()
        scheduler.prefix_query_tokens = 0  # nobody's query
    return core


def _backend(config: ModelConfig, precision: Precision, timeline: BootTimeline) -> Backend | None:
    """The kernels of a CUDA device, which becomes the calling thread's own; None on the CPU."""
    if precision.device.type != "cuda":
        return None
    torch.cuda.set_device(precision.device)
    with timeline.phase("kernels"), torch.inference_mode():
        return choose_backend(config, precision.device, precision.dtype)


def tile_tokens(block_tokens: int, options: EngineOptions) -> int:
    """Rows of a prompt tile: whole blocks, no fewer than `TILE`, no more than a chunk."""
    tile = -(-TILE // block_tokens) * block_tokens
    if options.prefill_chunk_tokens < tile:
        raise ConfigurationError(
            "PREFILL_CHUNK_TOKENS", f"{options.prefill_chunk_tokens} is less than the {tile} tokens of a tile"
        )
    return tile


def _max_model_len(config: ModelConfig, options: EngineOptions) -> int:
    wanted = options.max_model_len
    if wanted is None:
        return config.context_tokens
    if wanted > config.context_tokens:
        raise ConfigurationError("MAX_MODEL_LEN", f"{wanted} is beyond the model's {config.context_tokens} tokens")
    return wanted
