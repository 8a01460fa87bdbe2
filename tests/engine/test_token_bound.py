"""What is refused for its length before it is tokenized would have been too long."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stub_model import tokenizing_model
from handler.engine.snapshot import Snapshot
from handler.engine.token_bound import _NFC_SHRINKS
from handler.engine.tokenizer import _BYTE_OF_CHARACTER, Tokenizer
from handler.errors import ContextLengthError

SHRINKING = "\u1fbe\u0308\u0301"  # seven bytes, which NFC makes two
Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def description(embedded_snapshot: Snapshot) -> bytes:
    return (embedded_snapshot.directory / "tokenizer.json").read_bytes()


def changed(description: bytes, directory: Path, change: Change) -> Tokenizer:
    tokenizer = json.loads(description)
    change(tokenizer)
    directory.mkdir(exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return Tokenizer(directory)


def as_it_is(_: dict[str, Any]) -> None:
    pass


def complete(tokenizer: dict[str, Any]) -> None:
    """The embedded tokenizer has no tokens for bytes that its authors never saw."""
    vocab = tokenizer["model"]["vocab"]
    for character in _BYTE_OF_CHARACTER:
        vocab.setdefault(character, len(vocab))


def composing(tokenizer: dict[str, Any]) -> None:
    complete(tokenizer)
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}


def isolating(tokenizer: dict[str, Any]) -> None:
    split = {"type": "Split", "pattern": {"Regex": " "}, "behavior": "Isolated", "invert": False}
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, tokenizer["pre_tokenizer"]]}


@pytest.fixture(scope="module", params=[as_it_is, composing, isolating])
def bounded(request: pytest.FixtureRequest, description: bytes, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return changed(description, tmp_path_factory.mktemp("bounded"), request.param)


PIECES = st.sampled_from(
    [" " * 40, SHRINKING, "\u212b", "<|im_start|>", "the", "\u1100\u1161\u11a8", "!" * 9, "\0", "🙂"]
)


@given(st.lists(PIECES | st.text(max_size=5)).map("".join))
def test_no_text_has_fewer_tokens(bounded: Tokenizer, text: str) -> None:
    assert bounded.bound is not None
    assert bounded.bound.fewest_tokens(text) <= len(bounded.encode(text, add_special_tokens=False))


def test_composition_shrinks_no_text_more() -> None:
    """Of each character that NFC leaves, the longest spelling, character by character."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    longest: dict[str, int] = {}
    for character in characters:
        decomposed = unicodedata.normalize("NFD", character)
        longest[decomposed] = max(longest.get(decomposed, len(decomposed.encode())), len(character.encode()))
    for character in characters:
        if unicodedata.normalize("NFC", character) == character:
            decomposed = unicodedata.normalize("NFD", character)
            spelled = sum(longest.get(part, len(part.encode())) for part in decomposed)
            assert spelled <= _NFC_SHRINKS * len(character.encode())
    assert len(SHRINKING.encode()) == 3.5 * len(unicodedata.normalize("NFC", SHRINKING).encode())


def removing(tokenizer: dict[str, Any]) -> None:
    isolating(tokenizer)
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed"


def stripping(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"] = {"type": "Strip", "strip_left": True, "strip_right": True}


def swallowing(tokenizer: dict[str, Any]) -> None:
    tokenizer["added_tokens"][0]["lstrip"] = True


def composing_what_it_lacks(tokenizer: dict[str, Any]) -> None:
    tokenizer["normalizer"] = {"type": "NFC"}


@pytest.mark.parametrize("change", [removing, stripping, swallowing, composing_what_it_lacks])
def test_where_text_can_vanish_there_is_no_bound(description: bytes, tmp_path: Path, change: Change) -> None:
    assert changed(description, tmp_path, change).bound is None


def test_a_text_that_cannot_fit_is_refused_untokenized(
    embedded_snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tokenizing_model(embedded_snapshot)
    model = msgspec.structs.replace(model, info=msgspec.structs.replace(model.info, max_model_len=1000))
    assert model.tokenizer.bound is not None
    longest = model.tokenizer.bound.longest_bytes
    assert longest * 1000 > 65536
    monkeypatch.setattr(Tokenizer, "encode", None)
    model.check_length(" " * longest * 1000 + "\x04" * 9, "prompt")
    for text in (" " * longest * 1000 + " ", "é" * 70_000):
        with pytest.raises(ContextLengthError, match=r"has \d+ tokens at the least") as caught:
            model.check_length(text, "prompt")
        assert caught.value.param == "prompt"
