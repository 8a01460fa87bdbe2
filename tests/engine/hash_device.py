"""A device for property tests: pure Python, exact about which block holds what, and late with its tokens if told so.

Instead of keys and values a slot of its cache holds the digest of all tokens up to there. Before a row is computed, the
slots before it must hold the digests of that very sequence: whatever the engine does wrong with blocks shows there.
"""

from __future__ import annotations

import random
from collections import deque

from handler.engine.events import TokenLogprob
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import Batch, Chunk, SampledToken

VOCAB_SIZE = 12


def next_token(tokens: list[int], number: float) -> int:
    """The "model": repeats itself a lot, but neither for ever nor without its random number."""
    if number < 0.1:
        return int(number * 100) % VOCAB_SIZE
    return (tokens[-1] * 5 + len(tokens) // 8) % 4


def completion(prompt: list[int], params: SamplingParams) -> list[int]:
    """What the engine must say."""
    tokens, numbers = list(prompt), random.Random(params.seed)
    while len(tokens) < len(prompt) + params.max_tokens:
        tokens.append(next_token(tokens, numbers.random()))
        if tokens[-1] in params.stop_token_ids:
            break
    return tokens[len(prompt) :]


class HashStep:
    """The tokens of a step, for whoever waits for it."""

    def __init__(self, device: HashDevice) -> None:
        self._device = device
        self.sampled: dict[Sequence, list[SampledToken]] = {}

    def wait(self) -> list[tuple[Sequence, list[SampledToken]]]:
        assert self._device.in_flight.popleft() is self, "steps end in the order of their launch, once each"
        return list(self.sampled.items())

    def prompt_logprobs(self) -> list[tuple[Sequence, list[TokenLogprob]]]:
        return []


class HashDevice:
    """Computes at launch, in order."""

    def __init__(self, block_size: int, *, runs_ahead: bool) -> None:
        self.runs_ahead = runs_ahead
        self.in_flight: deque[HashStep] = deque()
        self._block_size = block_size
        self._cache: dict[tuple[int, int], int] = {}

    def launch(self, batch: Batch) -> HashStep:
        assert len(self.in_flight) <= self.runs_ahead
        assert len({chunk.sequence for chunk in batch}) == len(batch)
        step = HashStep(self)
        for chunk in batch:
            self._compute(chunk, step)
        self.in_flight.append(step)
        return step

    def _compute(self, chunk: Chunk, step: HashStep) -> None:
        sequence = chunk.sequence
        tokens = list(sequence.tokens)
        if chunk.is_ahead:
            assert self.runs_ahead
            assert not sequence.params.needs_history
            [unread] = self.in_flight[-1].sampled[sequence]
            tokens.append(unread.token_id)
        assert chunk.length > 0
        assert chunk.start + chunk.length <= len(tokens), "tokens that nobody knows"
        if chunk.draft:
            assert chunk.start == len(tokens) - 1
            assert chunk.length == 1
        tokens = tokens[: chunk.start + chunk.length]
        self._write([*tokens, *chunk.draft], chunk.start, sequence.block_table)
        if chunk.samples:
            sampled = step.sampled[sequence] = [self._sample(tokens, sequence)]
            for guess in chunk.draft:
                if sampled[-1].token_id != guess:
                    break
                tokens.append(guess)
                sampled.append(self._sample(tokens, sequence))

    def _write(self, tokens: list[int], start: int, block_table: list[int]) -> None:
        digest = 0
        for position, token in enumerate(tokens):
            digest = hash((digest, token))
            block, offset = divmod(position, self._block_size)
            slot = (block_table[block], offset)
            assert slot[0] > 0
            if position >= start:
                self._cache[slot] = digest
            else:
                assert self._cache.get(slot) == digest, f"position {position} is not in the cache"

    def _sample(self, tokens: list[int], sequence: Sequence) -> SampledToken:
        return SampledToken(next_token(tokens, sequence.rng.random()))
