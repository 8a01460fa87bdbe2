"""What a snapshot says of text: how it becomes tokens, how a chat becomes text, how it is sampled. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import msgspec

from handler.engine.chat_template import ChatTemplate, read_chat_template
from handler.engine.generation_config import GenerationDefaults, read_generation_defaults
from handler.engine.tokenizer import Tokenizer


class ModelText(msgspec.Struct, frozen=True):
    """The same for all engines. `chat_template` is None for a model that has none."""

    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    defaults: GenerationDefaults


def read_text(directory: Path) -> ModelText:
    """Read it from the directory of a snapshot.

    Raises:
        SnapshotError: it is damaged, or not supported.
    """
    return ModelText(Tokenizer(directory), read_chat_template(directory), read_generation_defaults(directory))
