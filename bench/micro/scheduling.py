"""The scheduler's part of a batch's life: admitted, computed in chunks, decoded side by side, released. No tensors."""

from __future__ import annotations

from collections.abc import Callable

from handler.engine.block_tables import BlockTables
from handler.engine.blocks import BlockPool
from handler.engine.sampling_params import SamplingParams
from handler.engine.scheduler import Scheduler
from handler.engine.sequence import Sequence

NUM_SEQUENCES = 16
PROMPT_TOKENS = 48
COMPLETION_TOKENS = 64
_BLOCK_TOKENS = 32
_NUM_BLOCKS = 1024
_CHUNK_TOKENS = 256
_TOKEN = 7
_PARAMS = SamplingParams(max_tokens=COMPLETION_TOKENS)


def scheduler() -> Callable[[], int]:
    """Steps until all sequences have ended. Everything is made anew in each call: nobody finds a prefix of the last."""
    return _run


def _run() -> int:
    tables = BlockTables(BlockPool(_NUM_BLOCKS), block_size=_BLOCK_TOKENS, tile=_BLOCK_TOKENS)
    scheduler = Scheduler(tables, max_batch_size=NUM_SEQUENCES, prefill_chunk_tokens=_CHUNK_TOKENS)
    for number in range(NUM_SEQUENCES):
        scheduler.add(Sequence(number, list(range(1000 * number, 1000 * number + PROMPT_TOKENS)), _PARAMS))
    num_steps = 0
    while scheduler.has_work:
        _step(scheduler)
        num_steps += 1
    return num_steps


def _step(scheduler: Scheduler) -> None:
    """What the engine's core does with a batch, but for the tensors and the text."""
    batch = scheduler.schedule()
    sampled = {chunk.sequence for chunk in batch if chunk.samples}
    for chunk in batch:
        sequence = chunk.sequence
        if sequence not in sampled:
            scheduler.advance(chunk, 0)
            continue
        sequence.tokens.append(_TOKEN)
        scheduler.advance(chunk, 1)
        if sequence.num_output_tokens >= sequence.params.max_tokens:
            scheduler.remove(sequence)
