"""What HTTP code may know of a loaded model: facts, tokenizer, template, defaults. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import msgspec

from handler.engine.generation_config import GenerationDefaults
from handler.engine.grammar import GrammarCompiler
from handler.engine.sampling_params import SamplingParams
from handler.engine.status import ModelInfo
from handler.engine.tokenizer import Tokenizer
from handler.errors import ContextLengthError, EngineError

if TYPE_CHECKING:  # jinja2 takes as long to import as all of HTTP, and is needed when the model is there
    from handler.engine.chat_template import ChatTemplate

_QUICK_CHARACTERS = 64 * 1024
"""Up to here it is quicker to tokenize than to know better: 20 to 100 ms."""


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Safe to read from any thread. `chat_template` is None for a model that has none."""

    info: ModelInfo
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    defaults: GenerationDefaults
    grammars: GrammarCompiler

    def check_length(self, text: str, param: str) -> None:
        """Refuse a prompt that is too long for the context however it is tokenized; to do that takes 0.3 to 1 s a MB.

        Raises:
            ContextLengthError: it is; names `param`.
        """
        if len(text) <= _QUICK_CHARACTERS:
            return
        bound = self.tokenizer.bound
        fewest = 0 if bound is None else bound.fewest_tokens(text)
        if fewest > self.info.max_model_len:
            raise ContextLengthError(
                f"{param}: the prompt has {fewest} tokens at the least; the model's context holds "
                f"{self.info.max_model_len}",
                param,
            )

    def check_sequence(self, prompt_tokens: list[int], params: SamplingParams) -> None:
        """Refuse what would fail a step, and with it the steps of all.

        Raises:
            EngineError: it has no tokens, could outgrow the context, or names a token that the model does not have.
        """
        if not prompt_tokens or len(prompt_tokens) + params.max_tokens > self.info.max_model_len:
            raise EngineError(
                f"a prompt of {len(prompt_tokens)} tokens and {params.max_tokens} more do not fit "
                f"a context of {self.info.max_model_len}"
            )
        self._check_vocabulary("prompt", prompt_tokens)
        self._check_vocabulary("stop_token_ids", params.stop_token_ids)
        self._check_vocabulary("logit_bias", params.logit_bias)
        self._check_vocabulary("bad_words", [token for word in params.bad_words for token in word])

    def _check_vocabulary(self, field: str, tokens: Collection[int]) -> None:
        vocab_size = self.info.vocab_size
        for token in (min(tokens, default=0), max(tokens, default=0)):
            if not 0 <= token < vocab_size:
                raise EngineError(f"{field}: token {token} is outside the model's vocabulary of {vocab_size}")
