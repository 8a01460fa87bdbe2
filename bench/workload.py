"""Prompts: deterministic by seed, different from each other, long enough. Pure; knows a tokenizer by one method.

Every prompt begins with what is its own, so that no prompt finds another one in a prefix cache, unless it is asked to.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol

import msgspec

from bench.lengths import Length, draw
from bench.traces import TraceRequest

_SUBJECTS = ("lighthouse keeper", "glass blower", "river pilot", "clock maker", "bee keeper", "bridge builder")
_PLACES = ("a northern harbour", "an old mill", "a mountain pass", "a market town", "a salt marsh", "a railway yard")
_VOCABULARY = """
the a one every old small bright quiet winter morning evening river stone bridge lantern window garden letter
people children sailor baker walked carried found asked opened remembered followed built watched through across
under beyond after before because while slowly often never again with without and but then rain light wind smoke
"""

_NUM_WORDS = 1 << 14
"""Of the text that prompts are cut from: more than most prompts are long, and made in milliseconds."""


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


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """What some prompts have in common.

    Attributes:
        share: of the requests (0 to 1] that begin with it.
        tokens: of it, in words, which come in front of a prompt and in addition to its own.
        number: of different ones, each as likely as the others.
    """

    share: float
    tokens: int
    number: int = 1


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One request: what it says, and how many tokens the answer may have."""

    prompt: str
    max_tokens: int


class Questions:
    """The requests of a load by number, in any order, and cheap: the load must not be what takes the time.

    Lengths count words, which all are in use every day: most tokenizers make one token of each. How many it really
    were, the server says.

    Args:
        seed: of everything that is drawn.
        prompt_tokens: length of the prompts.
        output_tokens: length of the answers.
        prefix: what prompts have in common, None where each begins with what is its own.
        trace: where lengths come from instead, None where they are drawn.
    """

    def __init__(
        self,
        seed: int,
        prompt_tokens: Length,
        output_tokens: Length,
        prefix: Prefix | None = None,
        trace: Sequence[TraceRequest] | None = None,
    ) -> None:
        self._seed = seed
        self._prompt_tokens = prompt_tokens
        self._output_tokens = output_tokens
        self._prefix = prefix
        self._trace = trace
        rng = random.Random(f"{seed}/words")  # noqa: S311  (a repeatable choice, not a secret)
        self._words = rng.choices(_VOCABULARY.split(), k=_NUM_WORDS)
        self._prefixes = [self._text(rng, prefix.tokens) for _ in range(prefix.number)] if prefix else []

    def question(self, number: int) -> Question:
        """The request of that number; the same for the same seed, whoever asks."""
        rng = random.Random(f"{self._seed}/question/{number}")  # noqa: S311  (a repeatable choice, not a secret)
        if self._trace is None:
            num_tokens, max_tokens = draw(self._prompt_tokens, rng), draw(self._output_tokens, rng)
        else:
            row = self._trace[number]
            num_tokens, max_tokens = row.prompt_tokens, row.output_tokens
        prompt = str(number) if num_tokens == 1 else f"{number} {self._text(rng, num_tokens - 1)}"
        if self._prefix is not None and rng.random() < self._prefix.share:
            prompt = f"{rng.choice(self._prefixes)} {prompt}"
        return Question(prompt=prompt, max_tokens=max_tokens)

    def _text(self, rng: random.Random, num_words: int) -> str:
        begin = rng.randrange(_NUM_WORDS)
        words = self._words[begin : begin + num_words]
        while len(words) < num_words:  # from the beginning again, as often as it takes
            words += self._words[: num_words - len(words)]
        return " ".join(words)


def _length(encoder: Encoder, text: str) -> int:
    return len(encoder.encode(text, add_special_tokens=False))
