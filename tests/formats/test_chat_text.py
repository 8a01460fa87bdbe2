"""The quick way of writing an answer, beside the schema that says what it comes to."""

from __future__ import annotations

import msgspec
import pytest

from handler.choice import Choice
from handler.engine.events import FinishReason, TokenEvent, TokenLogprob
from handler.errors import EngineError
from handler.formats.chat_text import is_text_alone, text_answer
from handler.formats.format import Head
from handler.schema.chat import AssistantMessage, ChatChoice, ChatCompletion
from handler.schema.codec import encode_json
from handler.schema.usage import PromptTokensDetails, Usage


def choice_of(text: str, reason: FinishReason = FinishReason.STOP, **fields: object) -> Choice:
    choice = Choice(0)
    event = TokenEvent(text=text, token_ids=(1, 2, 3), finish_reason=reason, cached_tokens=4)
    choice.add(msgspec.structs.replace(event, **fields))
    return choice


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
@pytest.mark.parametrize("text", ["", "Paris", 'a "quote"\n\\ and %b %d', "é \U0001f600 \x00\x7f\u2028", "x" * 10_000])
@pytest.mark.parametrize("model", ["llama", 'odd "%s" \\ é'])
def test_it_comes_to_what_the_schema_says(text: str, reason: FinishReason, model: str) -> None:
    choice = choice_of(text, reason)
    assert is_text_alone(choice)
    head = Head(request_id="r", created=1_700_000_000, model=model, fingerprint="fp_1")
    expected = ChatCompletion(
        id="chatcmpl-r",
        created=head.created,
        model=model,
        system_fingerprint=head.fingerprint,
        choices=[ChatChoice(0, AssistantMessage(text), None, choice.reported_reason)],
        usage=Usage(7, 3, 10, PromptTokensDetails(4)),
    )
    written = text_answer(head, "chatcmpl-r", choice, 7)
    assert msgspec.json.decode(written, type=ChatCompletion) == expected
    assert msgspec.json.decode(written) == msgspec.json.decode(encode_json(expected))


@pytest.mark.parametrize(
    "fields",
    [
        {"logprobs": (TokenLogprob(1, -0.5, ()),)},
        {"stop_reason": "end"},
        {"stop_reason": 5},
        {"finish_reason": FinishReason.ERROR, "error": EngineError("lost")},
    ],
)
def test_what_is_more_than_text_goes_the_long_way(fields: dict[str, object]) -> None:
    assert not is_text_alone(choice_of("a", **fields))
