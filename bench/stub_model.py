"""What a stub engine serves: the prepared model's own tokenizer and template, or ones that cost nothing."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

from handler.engine.chat_template import ChatTemplate, read_chat_template
from handler.engine.generation_config import GenerationDefaults
from handler.engine.grammar import GrammarCompiler
from handler.engine.loaded import LoadedModel
from handler.engine.snapshot import FORMAT_VERSION, Manifest, Snapshot
from handler.engine.status import ModelInfo
from handler.engine.tokenizer import Tokenizer

STUB_MODEL = "stub"


class StubTokenizer(Tokenizer):
    """One token for each eight characters, whatever they are."""

    def __init__(self) -> None:
        """Read nothing."""

    @property
    def bound(self) -> None:
        """Nothing is known of how few tokens a text may have."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of the right number."""
        del add_special_tokens
        return [1] * (len(text) // 8 + 1)

    def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Text of the right length."""
        del skip_special_tokens
        return "x" * (8 * len(token_ids))

    def token_bytes(self, token_id: int) -> bytes:
        """The same for each."""
        del token_id
        return b"x"


class StubTemplate(ChatTemplate):
    """The messages' contents, one after the other."""

    def __init__(self) -> None:
        """Compile nothing."""

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """The prompt."""
        del tools, add_generation_prompt, variables
        return "".join(message["content"] for message in messages)


def stub_snapshot() -> Snapshot:
    """A snapshot without files."""
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="bench",
        name=STUB_MODEL,
        files=(),
        created_at=datetime.now(UTC).isoformat(),
    )
    return Snapshot(Path(STUB_MODEL), STUB_MODEL, manifest)


def stub_model() -> LoadedModel:
    """A model whose tokenizer and template cost nothing."""
    tokenizer = StubTokenizer()
    return LoadedModel(
        info=_info(STUB_MODEL),
        tokenizer=tokenizer,
        chat_template=StubTemplate(),
        grammars=GrammarCompiler(tokenizer, Path(STUB_MODEL), (0,), 1),
        defaults=GenerationDefaults(),
    )


def tokenizing_model(snapshot: Snapshot) -> LoadedModel:
    """A model with the tokenizer and the template of a prepared one."""
    tokenizer = Tokenizer(snapshot.directory)
    return LoadedModel(
        info=_info(snapshot.name),
        tokenizer=tokenizer,
        chat_template=read_chat_template(snapshot.directory),
        grammars=GrammarCompiler(tokenizer, snapshot.directory / "tokenizer.json", (0,), 1),
        defaults=GenerationDefaults(),
    )


def _info(name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        architecture="stub",
        device="stub",
        dtype="none",
        quantization="none",
        vocab_size=1 << 20,
        max_model_len=1 << 16,
        kv_cache_tokens=1 << 20,
        kv_cache_dtype="none",
    )
