"""One completion as the engine sees it: its tokens, how far they are computed, and which blocks it has.

Mutable, and the engine thread's alone: the scheduler moves it, `SequenceOutput` makes it longer. Knows no tensors.
"""

from __future__ import annotations

import random

from handler.engine.follower import Follower
from handler.engine.lookup import PromptLookup
from handler.engine.sampling_params import SamplingParams


class Sequence:
    """One completion of one request as the engine sees it. Owned by the engine thread.

    Invariant: `num_computed_tokens` tokens have their keys and values in the blocks of `block_table`, in order, or will
    have them once the steps in flight are done. `num_chunks_in_flight` counts its chunks in those steps, and
    `num_pending_tokens` the tokens that they may yield at most, which `tokens` does not hold yet. Of the rows that
    `params.prompt_logprobs` asks for, the first `num_scored_rows` have been reported.
    """

    __slots__ = (
        "__weakref__",
        "block_hashes",
        "block_table",
        "cached_tokens",
        "first_scheduled_s",
        "follower",
        "id",
        "lookup",
        "num_chunks_in_flight",
        "num_computed_tokens",
        "num_pending_tokens",
        "num_prompt_tokens",
        "num_scored_rows",
        "params",
        "rank",
        "rng",
        "tokens",
    )

    def __init__(self, sequence_id: int, prompt_tokens: list[int], params: SamplingParams) -> None:
        self.id = sequence_id
        self.params = params
        self.tokens = list(prompt_tokens)
        self.num_prompt_tokens = len(prompt_tokens)
        self.num_computed_tokens = 0
        self.num_chunks_in_flight = 0
        self.num_pending_tokens = 0
        self.num_scored_rows = 0
        self.rank = (params.priority, 0)  # the scheduler knows who came first
        self.cached_tokens = 0
        self.block_table: list[int] = []
        self.block_hashes: list[bytes] = []
        self.first_scheduled_s: float | None = None
        self.lookup: PromptLookup | None = None  # where drafts are made
        self._begin_sampling()

    def rewind(self) -> None:
        """Forget steps that were launched and came to nothing: what is computed next follows the tokens that are known.

        The generator is brought to where it was: it draws one number for each token, or none at all.
        """
        self.num_computed_tokens = 0
        self.num_chunks_in_flight = 0
        self.num_pending_tokens = 0
        self._begin_sampling()
        if self.params.seed is not None:
            for _ in range(self.num_output_tokens):
                self.rng.random()

    def _begin_sampling(self) -> None:
        params = self.params
        self.follower = None if params.grammar is None else Follower(params.grammar, self.num_prompt_tokens)
        # Python seeds with the absolute value: -1 would repeat 1.
        seed = None if params.seed is None else params.seed % 2**64
        self.rng = random.Random(seed)  # noqa: S311  (sampling noise, not a secret)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_output_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - self.num_prompt_tokens

    @property
    def will_end(self) -> bool:
        """Whether the tokens in flight are the last that it may have."""
        return len(self.tokens) - self.num_prompt_tokens + self.num_pending_tokens >= self.params.max_tokens

    @property
    def can_run_ahead(self) -> bool:
        """Whether the next step can go on with the token in flight, unknown as it is."""
        return self.num_pending_tokens == 1 and not self.params.needs_history and not self.will_end

    @property
    def num_rows_to_score(self) -> int:
        """Rows of the prompt, from its beginning, whose logits are reported: each row scores the token behind it."""
        return 0 if self.params.prompt_logprobs is None else self.num_prompt_tokens - 1
