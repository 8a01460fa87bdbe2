"""Text to tokens and back with the embedded model's tokenizer. It must be prepared below PILOTLIGHT_HOME."""

from __future__ import annotations

import os
from collections.abc import Callable

from handler.engine.snapshot import EMBEDDED_MODEL, find_snapshot
from handler.engine.tokenizer import TextStream, Tokenizer
from handler.settings import Settings

NUM_PROMPT_TOKENS = 200
NUM_ANSWER_TOKENS = 64

PROMPT = """\
The moon is the only natural satellite of the earth. It turns about the earth at a distance of about 384,400 km, once \
in 27.3 days, and in the same time once about itself: that is why people on the earth always see the same side of it.
Tides come from it, twice a day: the side of the earth that faces the moon is drawn more strongly than the middle, and \
the middle more strongly than the side behind. The sun does the same with less than half the force, so that tides are \
highest when both stand in one line.
Its light takes 1.28 seconds to get here. Nobody has been there since December 1972 (Apollo 17).
Write the names of all twelve people who have, as a table, with the year and the name of the ship that took them, and \
say which one of them was the very last to leave.
"""

ANSWER = (
    " The last one to leave was Eugene Cernan \u2014 \u6708\u304b\u3089\u6700\u5f8c\u306b \U0001f319 \u2014 "
    "on 14 December 1972, with the ship Challenger; Harrison Schmitt went before him, and Ronald Evans waited for both "
    "of them in his own ship above."
)
"""Some of its characters are made of several tokens."""


def encode() -> Callable[[], list[int]]:
    """Tokens of a prompt that has NUM_PROMPT_TOKENS."""
    tokenizer = _tokenizer()
    return lambda: tokenizer.encode(PROMPT, add_special_tokens=False)


def incremental_decode() -> Callable[[], str]:
    """Text of an answer that has NUM_ANSWER_TOKENS, which come one by one."""
    tokenizer = _tokenizer()
    prompt = tokenizer.encode(PROMPT, add_special_tokens=False)
    answer = tokenizer.encode(ANSWER, add_special_tokens=False)
    assert len(answer) == NUM_ANSWER_TOKENS

    def decode() -> str:
        stream = TextStream(tokenizer, prompt)
        return "".join([stream.push(token) for token in answer]) + stream.flush()

    return decode


def _tokenizer() -> Tokenizer:
    home = Settings.from_env(os.environ).pilotlight_home
    return Tokenizer(find_snapshot(EMBEDDED_MODEL, home).directory)
