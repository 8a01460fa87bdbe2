"""A chat completion of one choice that is nothing but text, like most, written in a third of the time.

What all of them have in common is what `ChatCompletion` comes to; what differs is put in its places.
"""

from __future__ import annotations

import orjson

from handler.choice import Choice
from handler.formats.format import Head
from handler.schema.chat import AssistantMessage, ChatChoice, ChatCompletion
from handler.schema.codec import encode_json
from handler.schema.usage import FinishReason, PromptTokensDetails, Usage

_NUMBER = 10**15
"""The first of five numbers that stand for others: no other number in an answer is so large."""


def is_text_alone(choice: Choice) -> bool:
    """Whether the choice is nothing but text, and ended by itself."""
    return choice.logprobs is None and choice.error is None and choice.stop_reason is None


def text_answer(head: Head, answer_id: str, choice: Choice, prompt_tokens: int) -> bytes:
    """A chat.completion of a choice that `is_text_alone`, without a service tier."""
    completion_tokens = choice.completion_tokens
    return _ANSWER % (
        answer_id.encode(),
        head.created,
        orjson.dumps(head.model),
        head.fingerprint.encode(),
        orjson.dumps(choice.text),
        choice.reported_reason.encode(),
        prompt_tokens,
        completion_tokens,
        prompt_tokens + completion_tokens,
        choice.cached_tokens,
    )


def _with_places() -> bytes:
    """An answer with a place for each of its parts, in the order in which they stand there."""
    created, prompt, completion, total, cached = range(_NUMBER, _NUMBER + 5)
    reason: FinishReason = "stop"
    answer = encode_json(
        ChatCompletion(
            id="<id>",
            created=created,
            model="<model>",
            system_fingerprint="<fingerprint>",
            choices=[ChatChoice(0, AssistantMessage("<text>"), None, reason)],
            usage=Usage(prompt, completion, total, PromptTokensDetails(cached)),
        )
    )
    for mark, place in (
        (b"<id>", b"%b"),
        (b'"<model>"', b"%b"),
        (b"<fingerprint>", b"%b"),
        (b'"<text>"', b"%b"),
        (b'"%b"' % reason.encode(), b'"%b"'),
        *((b"%d" % number, b"%d") for number in (created, prompt, completion, total, cached)),
    ):
        assert answer.count(mark) == 1, f"{mark.decode()} is in its place alone"
        answer = answer.replace(mark, place)
    return answer


_ANSWER = _with_places()
