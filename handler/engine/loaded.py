"""What HTTP code may know of a loaded model: facts, tokenizer, template, defaults. Imports no torch."""

from __future__ import annotations

import msgspec

from handler.engine.chat_template import ChatTemplate
from handler.engine.generation_config import GenerationDefaults
from handler.engine.grammar import GrammarCompiler
from handler.engine.status import ModelInfo
from handler.engine.tokenizer import Tokenizer
from handler.errors import ContextLengthError

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
