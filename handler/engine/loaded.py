"""What HTTP code may know of a loaded model: facts, tokenizer, template, defaults. Imports no torch."""

from __future__ import annotations

import msgspec

from handler.engine.chat_template import ChatTemplate
from handler.engine.generation_config import GenerationDefaults
from handler.engine.grammar import GrammarCompiler
from handler.engine.tokenizer import Tokenizer
from handler.engine.types import ModelInfo


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """Safe to read from any thread. `chat_template` is None for a model that has none."""

    info: ModelInfo
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    defaults: GenerationDefaults
    grammars: GrammarCompiler
