"""What crosses the engine's border, and what its modules share. No torch here, so that HTTP code imports it freely.

`SamplingParams`, `TokenLogprob` and `TokenEvent` are frozen and cross threads. `Sequence` is mutable and belongs
to the engine thread alone.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from handler.engine.follower import Follower
from handler.engine.grammar import Grammar
from handler.engine.lookup import PromptLookup
from handler.errors import EngineError


class FinishReason(enum.StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How one sequence's tokens are chosen. Values are valid: the schema has refused everything else.

    Attributes:
        max_tokens: tokens to generate at most; 0 computes the prompt and ends.
        temperature: 0 takes the most likely token.
        top_p: keep the smallest set of tokens whose probability reaches it; 1 keeps all.
        top_k: keep that many most likely tokens; 0 keeps all.
        min_p: keep tokens at least this fraction as likely as the likeliest; 0 keeps all.
        seed: makes the sequence's random numbers repeatable, whatever shares its batch.
        presence_penalty: subtracted from the logit of each token generated before.
        frequency_penalty: subtracted once per earlier occurrence in the completion.
        repetition_penalty: divides positive, multiplies negative logits of tokens in prompt or completion (CTRL).
        logit_bias: added to the logits of these token ids.
        stop: strings that end the completion and do not appear in it.
        stop_token_ids: tokens that end the completion, beside the model's own end tokens.
        min_tokens: no end token and no stop string before that many tokens.
        ignore_eos: the model's own end tokens do not end the completion.
        shown_token_ids: special tokens whose text belongs to the completion's; that of others does not.
        logprobs: None for none, else the number of most likely alternatives reported beside each chosen token.
        prompt_logprobs: likewise for each token of the prompt but the first, which nothing comes before.
        bad_words: token sequences of which the last token is not chosen behind the others.
        include_stop: the stop string or stop token that ends the completion appears in it.
        skip_special_tokens: special tokens have no text.
        priority: sequences with a lower number run first; equal ones in the order of their arrival.
        grammar: what the completion must match, None for anything.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    min_tokens: int = 0
    ignore_eos: bool = False
    shown_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    priority: int = 0
    grammar: Grammar | None = None

    @property
    def needs_history(self) -> bool:
        """Whether a token's choice or report asks for more than its logits, a cut and a random number.

        That is the host's work and may need all tokens before it, so such a sequence never runs ahead.
        """
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or bool(self.logit_bias)
            or self.min_tokens > 0
            or bool(self.bad_words)
            or self.logprobs is not None
            or self.grammar is not None
        )


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token with its natural log probability under the model, before temperature and penalties.

    `top` holds the most likely (token_id, logprob) pairs, likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class SampledToken(msgspec.Struct, frozen=True):
    """The choice of one row of logits. With an `error` there was none, and the token means nothing."""

    token_id: int
    logprob: TokenLogprob | None = None
    error: EngineError | None = None


class TokenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What one step yielded for one sequence. The last event of a sequence, and only that, has a finish_reason.

    Where a prompt takes several steps, an event without tokens says after the first of them that it has begun. It may
    come again if the sequence was preempted meanwhile.

    Attributes:
        text: text that is certain now; may be empty while a character or a possible stop string is incomplete.
        token_ids: tokens generated in this step.
        logprobs: one entry per token id where asked for.
        prompt_logprobs: one entry per prompt token but the first, where asked for, in the sequence's first event.
        finish_reason: set on the last event.
        stop_reason: the stop string or the stop token id that ended the sequence, where one did.
        cached_tokens: prompt tokens that came from the prefix cache.
        first_scheduled_s: `time.monotonic()` when the sequence first entered a batch.
        error: the failure behind FinishReason.ERROR.
    """

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    cached_tokens: int = 0
    first_scheduled_s: float | None = None
    error: EngineError | None = None


OnEvent = Callable[[TokenEvent], None]


def failure_event(error: Exception) -> TokenEvent:
    """The last event of a sequence that failed. An error not of ours goes by its type: its text may tell paths."""
    failure = error if isinstance(error, EngineError) else EngineError(f"the engine failed: {type(error).__name__}")
    return TokenEvent(finish_reason=FinishReason.ERROR, error=failure)


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
    def num_rows_to_score(self) -> int:
        """Rows of the prompt, from its beginning, whose logits are reported: each row scores the token behind it."""
        return 0 if self.params.prompt_logprobs is None else self.num_prompt_tokens - 1


class Chunk(msgspec.Struct, frozen=True):
    """Tokens `[start, start + length)` of a sequence that one step computes.

    `draft` are tokens guessed to follow, computed in the same step; only a chunk of one token that samples has them.
    The properties hold until the step is launched; the sequence grows afterwards.
    """

    sequence: Sequence
    start: int
    length: int
    draft: tuple[int, ...] = ()

    @property
    def is_ahead(self) -> bool:
        """Whether its one token is not known to the host yet: what the step launched before samples for it."""
        return self.start == len(self.sequence)

    @property
    def samples(self) -> bool:
        """Whether the chunk reaches the sequence's last token, so that the next one is sampled from it."""
        return self.start + self.length >= len(self.sequence)

    @property
    def scored_rows(self) -> range:
        """Positions whose logits are wanted for `prompt_logprobs`; never in a chunk of one token or with a draft."""
        sequence = self.sequence
        end = min(self.start + self.length, sequence.num_rows_to_score)
        return range(max(self.start, sequence.num_scored_rows), end)


Batch = list[Chunk]


class PendingStep(Protocol):
    """A step that was launched. Steps are waited for once each, in the order of their launch."""

    def wait(self) -> list[tuple[Sequence, list[SampledToken]]]:
        """The tokens of each chunk that samples, chunks in any order.

        One token, or with a draft 1 to 1 + len(draft): the row behind each draft token counts if the token before it
        was sampled as guessed, so they are the tokens that would come without the draft, in order.
        """

    def prompt_logprobs(self) -> list[tuple[Sequence, list[TokenLogprob]]]:
        """Of the tokens behind the `scored_rows` of each chunk that has any. Not before `wait` has returned."""


class Runner(Protocol):
    """The device side of a step. `runs_ahead`: `launch` returns before the tokens are known."""

    @property
    def runs_ahead(self) -> bool:
        """Whether chunks may be ahead; then the core keeps one step in flight."""

    def launch(self, batch: Batch) -> PendingStep:
        """Begin a step. Steps take effect in the order of their launch; the batch may change once this returns."""

    def clear(self, blocks: list[int]) -> None:
        """Called with the blocks of a sequence that failed: none of its numbers may reach who gets them next."""

    def idle(self) -> None:
        """Called when nothing runs: time for preparations that no request should wait for."""


class EngineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine needs of the settings, under the same names."""

    device: str = "auto"
    dtype: str = "auto"
    quantization: Literal["auto", "none", "int8", "fp8"] = "auto"
    max_batch_size: int = 16
    max_model_len: int | None = None
    prefill_chunk_tokens: int = 256
    kv_cache_fraction: float | None = None
    speculation_tokens: int | None = None


class EngineStats(msgspec.Struct, frozen=True, kw_only=True):
    """State of the engine after a step. The counters only grow."""

    num_running: int = 0
    num_waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    num_preemptions: int = 0
    spec_drafted_tokens: int = 0
    spec_accepted_tokens: int = 0


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is loaded, where and how. Sizes in tokens."""

    name: str
    architecture: str
    device: str
    dtype: str
    quantization: str
    vocab_size: int
    max_model_len: int
    kv_cache_tokens: int
    kv_cache_dtype: str
