"""Prompts: deterministic by seed, different from each other, long enough. Pure; knows a tokenizer by one method.

Every prompt begins with what is its own, so that no prompt finds another one in a prefix cache.
"""

from __future__ import annotations

import random
from typing import Protocol

_SUBJECTS = ("lighthouse keeper", "glass blower", "river pilot", "clock maker", "bee keeper", "bridge builder")
_PLACES = ("a northern harbour", "an old mill", "a mountain pass", "a market town", "a salt marsh", "a railway yard")
_VOCABULARY = """
the a one every old small bright quiet winter morning evening river stone bridge lantern window garden letter
people children sailor baker walked carried found asked opened remembered followed built watched through across
under beyond after before because while slowly often never again with without and but then rain light wind smoke
"""


class Encoder(Protocol):
    """What this module needs of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`."""
        ...


def story_prompt(seed: int, number: int) -> str:
    """A short request for a long answer."""
    rng = random.Random(f"{seed}/story/{number}")  # noqa: S311  (a repeatable choice, not a secret)
    subject, place = rng.choice(_SUBJECTS), rng.choice(_PLACES)
    return f"{number}. Tell me a long story about {rng.randrange(2, 100)} friends of a {subject} in {place}."


def long_text(encoder: Encoder, num_tokens: int, seed: int, name: str) -> str:
    """Text of about `num_tokens` tokens: the longest whole number of sentences that does not exceed them."""
    rng = random.Random(f"{seed}/long/{name}")  # noqa: S311  (a repeatable choice, not a secret)
    text = f"Report {name}-{rng.randrange(10**6)}."
    count = _length(encoder, text)
    while True:
        sentence = " ".join(rng.choices(_VOCABULARY.split(), k=rng.randrange(6, 14)))
        addition = f" {sentence[0].upper()}{sentence[1:]}."
        count += _length(encoder, addition)
        if count > num_tokens:
            return text
        text += addition


def long_tokens(encoder: Encoder, num_tokens: int, seed: int, name: str) -> list[int]:
    """Exactly `num_tokens` tokens of such text."""
    return encoder.encode(long_text(encoder, 2 * num_tokens, seed, name), add_special_tokens=False)[:num_tokens]


def _length(encoder: Encoder, text: str) -> int:
    return len(encoder.encode(text, add_special_tokens=False))
