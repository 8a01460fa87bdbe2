"""Makes an `EngineCore` of a snapshot: reads what describes the model, builds a backend, warms up. Runs once, at boot.

Importing this module imports torch; nothing that must be quick at start-up may import it.
"""

from __future__ import annotations

import torch

from handler.boot import BootTimeline
from handler.engine.architecture import open_architecture
from handler.engine.backend import BackendBuilder
from handler.engine.block_tables import BlockTables
from handler.engine.blocks import BlockPool
from handler.engine.config import ModelShape
from handler.engine.core import EngineCore
from handler.engine.drafting import Drafter
from handler.engine.grammar import GrammarCompiler
from handler.engine.loaded import LoadedModel
from handler.engine.options import EngineOptions
from handler.engine.precision import resolve_precision
from handler.engine.sampler import Sampler
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Scheduler
from handler.engine.snapshot import Snapshot
from handler.engine.status import ModelInfo
from handler.engine.text import ModelText, read_text
from handler.errors import ConfigurationError


def load_core(
    snapshot: Snapshot, options: EngineOptions, timeline: BootTimeline, text: ModelText | None = None
) -> EngineCore:
    """Load the model and allocate everything for serving it.

    Args:
        snapshot: the model.
        options: device, precision and limits.
        timeline: receives the phases.
        text: of the snapshot, where it has been read already.

    Raises:
        ConfigurationError: a setting asks for what this machine or this model does not have.
        SnapshotError: the snapshot is damaged or not supported.
    """
    architecture = open_architecture(snapshot.directory, timeline)
    config = architecture.shape
    precision = resolve_precision(options, can_quantise=architecture.can_quantise, has_kernels=architecture.has_kernels)
    max_model_len = _max_model_len(config, options)
    if text is None:
        with timeline.phase("tokenizer"):
            text = read_text(snapshot.directory)
    end_token_ids = text.defaults.end_token_ids
    sampler = Sampler(config.vocab_size, end_token_ids, precision.device)
    backend = BackendBuilder(
        directory=snapshot.directory,
        architecture=architecture,
        precision=precision,
        options=options,
        max_model_len=max_model_len,
        sampler=sampler,
        timeline=timeline,
    ).build()
    pool = BlockPool(backend.num_blocks)
    tables = BlockTables(pool, block_size=backend.block_size, tile=backend.tile)
    drafter = None
    asked = options.speculation_tokens
    if draft_tokens := backend.speculation_tokens if asked is None else asked:
        drafter = Drafter(tables, draft_tokens=draft_tokens)
    scheduler = Scheduler(
        tables,
        max_batch_size=options.max_batch_size,
        prefill_chunk_tokens=options.prefill_chunk_tokens,
        drafter=drafter,
    )
    core = EngineCore(
        runner=backend.runner,
        scheduler=scheduler,
        pool=pool,
        model=LoadedModel(
            info=ModelInfo(
                name=snapshot.name,
                architecture=config.architecture,
                device=str(precision.device),
                dtype=_name(precision.dtype),
                quantization=precision.quantization,
                vocab_size=config.vocab_size,
                max_model_len=max_model_len,
                kv_cache_tokens=(backend.num_blocks - 1) * backend.block_size,
                kv_cache_dtype=_name(backend.kv_cache_dtype),
            ),
            tokenizer=text.tokenizer,
            chat_template=text.chat_template,
            defaults=text.defaults,
            grammars=GrammarCompiler(
                text.tokenizer, snapshot.directory / "tokenizer.json", end_token_ids, config.vocab_size
            ),
        ),
    )
    with timeline.phase("warm_up"):
        core.add(-1, [0, 0], SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True))
        while core.has_work:
            core.step()
        scheduler.prefix_query_tokens = 0  # nobody's query
    return core


def _max_model_len(config: ModelShape, options: EngineOptions) -> int:
    wanted = options.max_model_len
    if wanted is None:
        return config.context_tokens
    if wanted > config.context_tokens:
        raise ConfigurationError("MAX_MODEL_LEN", f"{wanted} is beyond the model's {config.context_tokens} tokens")
    return wanted


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
