"""How few tokens a text can possibly have: what cannot fit the context is refused before it is tokenized.

Knows a tokenizer by its description (`tokenizer.json`). Sound or silent: where text can vanish on its way to tokens,
there is no bound.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

_NFC_SHRINKS = 4
"""Canonical composition makes UTF-8 shorter by a factor of 3.5 at most: U+1FBE U+0308 U+0301 becomes U+0390."""
_LOSSLESS_SPLITS = frozenset({"ByteLevel", "Digits"})


class TokenBound(msgspec.Struct, frozen=True):
    """Text that one token stands for is `longest_bytes` at most; `unknown_bytes` vanish, for they have no token."""

    longest_bytes: int
    unknown_bytes: bytes

    def fewest_tokens(self, text: str) -> int:
        """No text has fewer; it may have many times as many."""
        return -(-len(text.encode().translate(None, self.unknown_bytes)) // self.longest_bytes)


def token_bound(
    description: dict[str, Any], stand_ins: dict[str, int], token_bytes: Callable[[int], bytes]
) -> TokenBound | None:
    """Known for byte-level BPE tokenizers that lose nothing but single bytes: GPT-2's, Llama 3's, Qwen's, SmolLM's.

    `stand_ins` are the characters that stand for bytes in their vocabularies.
    """
    model, added = description["model"], description["added_tokens"]
    is_lossless = (
        model["type"] == "BPE"
        and (description["decoder"] or {}).get("type") == "ByteLevel"
        and not model.get("unk_token")
        and all(_keeps_text(step) for step in _steps(description["pre_tokenizer"], "pretokenizers"))
        and not any(token["lstrip"] or token["rstrip"] for token in added)  # which take all white space beside them
    )
    unknown = bytes(byte for character, byte in stand_ins.items() if character not in model["vocab"])
    shrinks = _shrinks(description["normalizer"], unknown)
    if not is_lossless or shrinks is None:
        return None
    token_ids = [*model["vocab"].values(), *(token["id"] for token in added)]
    return TokenBound(shrinks * max(len(token_bytes(token_id)) for token_id in token_ids), unknown)


def _shrinks(normalizer: dict[str, Any] | None, unknown: Collection[int]) -> int | None:
    """The factor by which text gets shorter at most; None where that is not known."""
    steps = {step["type"] for step in _steps(normalizer, "normalizers")}
    if not steps:
        return 1
    return _NFC_SHRINKS if steps == {"NFC"} and not unknown else None


def _steps(part: dict[str, Any] | None, inner: str) -> list[dict[str, Any]]:
    """A part of the pipeline, taken apart where it is a sequence."""
    if part is None:
        return []
    return [step for nested in part[inner] for step in _steps(nested, inner)] if part["type"] == "Sequence" else [part]


def _keeps_text(step: dict[str, Any]) -> bool:
    return step["type"] in _LOSSLESS_SPLITS or (step["type"] == "Split" and step["behavior"] != "Removed")
