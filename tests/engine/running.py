"""Drives an engine core without its thread, and asks transformers what it should have said."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import torch
import transformers

from handler.engine.core import EngineCore
from handler.engine.events import FinishReason, TokenEvent, TokenLogprob
from handler.engine.sampling_params import SamplingParams

_ids = itertools.count()


class Completion(msgspec.Struct):
    """All events of one sequence."""

    events: list[TokenEvent] = []

    @property
    def tokens(self) -> list[int]:
        return [token for event in self.events for token in event.token_ids]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events)

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [entry for event in self.events for entry in event.logprobs or ()]

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.events[-1].finish_reason

    @property
    def stop_reason(self) -> str | int | None:
        return self.events[-1].stop_reason

    @property
    def cached_tokens(self) -> int:
        return self.events[-1].cached_tokens


def greedy(max_tokens: int, **changes: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True, **changes)


def submit(core: EngineCore, prompt: list[int], params: SamplingParams) -> int:
    sequence_id = next(_ids)
    core.add(sequence_id, prompt, params)
    return sequence_id


def run(core: EngineCore) -> dict[int, Completion]:
    """Step until nothing is left to do; completions by sequence id."""
    completions: dict[int, Completion] = {}
    tables = [sequence.block_table for sequence in core._scheduler.running]
    blocks_of_nobody = core.stats().kv_blocks_used - len({block for table in tables for block in table})
    while core.has_work:
        for sequence_id, event in core.step():
            completions.setdefault(sequence_id, Completion()).events.append(event)
    core._pool.check()
    assert core.stats().kv_blocks_used == blocks_of_nobody
    return completions


def complete(core: EngineCore, prompts: list[list[int]], params: SamplingParams) -> list[Completion]:
    """All prompts at once."""
    ids = [submit(core, prompt, params) for prompt in prompts]
    completions = run(core)
    return [completions[sequence_id] for sequence_id in ids]


def complete_alone(core: EngineCore, prompts: list[list[int]], params: SamplingParams) -> list[Completion]:
    """One prompt after the other."""
    return [complete(core, [prompt], params)[0] for prompt in prompts]


@torch.inference_mode()
def generate(model: transformers.PreTrainedModel, prompt: list[int], max_tokens: int) -> list[int]:
    """The greedy completion by transformers, not ended by any token."""
    model.generation_config.eos_token_id = None
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        do_sample=False,
        max_new_tokens=max_tokens,
        pad_token_id=0,
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@torch.inference_mode()
def likeliest_next(
    model: transformers.PreTrainedModel, prompts: list[list[int]], completions: list[list[int]]
) -> list[list[int]]:
    """What transformers takes for the likeliest token at each place of a completion, given all tokens before it.

    It equals the completion if and only if that is the greedy one; one forward pass instead of one a token.
    """
    rows = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    longest = max(map(len, rows))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in rows])  # padding comes later: it is not seen
    hidden = model.model(padded).last_hidden_state
    return [
        model.lm_head(states[len(prompt) - 1 : len(row) - 1]).argmax(dim=-1).tolist()
        for states, prompt, row in zip(hidden, prompts, rows, strict=True)
    ]
