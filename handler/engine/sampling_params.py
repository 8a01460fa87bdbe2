"""How one sequence's tokens are to be chosen. Frozen: made by HTTP code, read by the engine thread. No torch."""

from __future__ import annotations

import msgspec

from handler.engine.grammar import Grammar


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
