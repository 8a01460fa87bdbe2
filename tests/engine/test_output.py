from __future__ import annotations

from typing import Any

import msgspec
import pytest

from handler.engine.events import FinishReason, TokenEvent, TokenLogprob
from handler.engine.output import SequenceOutput
from handler.engine.sampling_params import SamplingParams
from handler.engine.sequence import Sequence
from handler.engine.step import SampledToken
from handler.engine.tokenizer import Tokenizer
from tests.tiny_models import END_TOKEN, byte_tokenizer

EURO = list("€".encode())


class Output(msgspec.Struct):
    text: str
    finish_reason: FinishReason | None
    stop_reason: str | int | None
    parts: list[str]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("bytes")
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


def follow(tokenizer: Tokenizer, tokens: str | list[int], **changes: Any) -> Output:
    """What comes out when these tokens are sampled one after the other, until the sequence ends."""
    params = SamplingParams(**({"max_tokens": 100} | changes))
    output = SequenceOutput(Sequence(1, [65, 66], params), tokenizer, frozenset({END_TOKEN}))
    parts = []
    event = TokenEvent()
    for token in list(tokens.encode()) if isinstance(tokens, str) else tokens:
        assert event.finish_reason is None, "a token after the end"
        event = output.accept([SampledToken(token)])
        assert event.token_ids == (token,)
        parts.append(event.text)
    return Output("".join(parts), event.finish_reason, event.stop_reason, parts)


def test_a_sequence_goes_on_until_something_ends_it(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, "abc") == Output("abc", None, None, ["a", "b", "c"])


def test_the_last_of_max_tokens_ends_it(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, "abc", max_tokens=3) == Output("abc", FinishReason.LENGTH, None, ["a", "b", "c"])


def test_the_models_end_token_ends_it_and_has_no_text(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, [97, END_TOKEN]) == Output("a", FinishReason.STOP, None, ["a", ""])


def test_the_end_token_as_the_last_of_max_tokens_is_a_stop(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, [97, END_TOKEN], max_tokens=2).finish_reason is FinishReason.STOP


def test_ignore_eos_goes_on_behind_the_end_token(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, [97, END_TOKEN, 98], ignore_eos=True)
    assert output == Output("ab", None, None, ["a", "", "b"])


def test_a_stop_token_ends_it_is_named_and_has_no_text(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, "abc", stop_token_ids=(99,))
    assert output == Output("ab", FinishReason.STOP, 99, ["a", "b", ""])


def test_an_end_token_among_the_stop_tokens_is_named_even_with_ignore_eos(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, [97, END_TOKEN], stop_token_ids=(END_TOKEN,), ignore_eos=True)
    assert (output.finish_reason, output.stop_reason) == (FinishReason.STOP, END_TOKEN)


def test_a_stop_string_across_tokens_never_shows(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, "see END", stop=("END",))
    assert output == Output("see ", FinishReason.STOP, "END", ["s", "e", "e", " ", "", "", ""])


def test_text_that_did_not_become_a_stop_is_released(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, "ENx", stop=("END",)).parts == ["", "", "ENx"]


@pytest.mark.parametrize(
    ("tokens", "changes", "finish"),
    [
        ([*b"aEN"], {"max_tokens": 3}, FinishReason.LENGTH),
        ([*b"aEN", END_TOKEN], {}, FinishReason.STOP),
        ([*b"aEN", 120], {"stop_token_ids": (120,)}, FinishReason.STOP),
    ],
)
def test_held_back_text_comes_with_the_last_event(
    tokenizer: Tokenizer, tokens: list[int], changes: dict[str, Any], finish: FinishReason
) -> None:
    output = follow(tokenizer, tokens, stop=("END",), **changes)
    assert (output.text, output.parts[-1], output.finish_reason) == ("aEN", "EN", finish)


def test_a_stop_string_completed_by_the_last_of_max_tokens_is_a_stop(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, "aEND", stop=("END",), max_tokens=4)
    assert (output.text, output.finish_reason, output.stop_reason) == ("a", FinishReason.STOP, "END")


def test_a_character_cut_off_at_the_end_is_shown_as_broken(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, [97, *EURO[:2]], max_tokens=3).parts == ["a", "", "\ufffd"]
    assert follow(tokenizer, [97, *EURO[:2], END_TOKEN]).parts == ["a", "", "", "\ufffd"]


def test_a_stop_string_found_in_the_flush_alone_counts(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, [97, *EURO[:2]], max_tokens=3, stop=("a\ufffd",))
    assert (output.text, output.finish_reason, output.stop_reason) == ("", FinishReason.STOP, "a\ufffd")
    output = follow(tokenizer, [97, *EURO[:2], END_TOKEN], stop=("\ufffd",))
    assert (output.text, output.finish_reason, output.stop_reason) == ("a", FinishReason.STOP, "\ufffd")


def test_a_stop_string_of_several_bytes_a_character(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, [97, *EURO, *EURO], stop=("€€",))
    assert output.parts == ["a", *[""] * 6]
    assert output.stop_reason == "€€"


def test_no_stop_string_before_min_tokens(tokenizer: Tokenizer) -> None:
    assert follow(tokenizer, "axbx", stop=("x",), min_tokens=3).text == "axb"
    assert follow(tokenizer, "axbx", stop=("x",), min_tokens=3).stop_reason == "x"
    assert follow(tokenizer, "ax", stop=("x",), min_tokens=2).stop_reason == "x"
    assert follow(tokenizer, "ax", stop=("x",), min_tokens=3).finish_reason is None


def test_a_stop_string_that_begins_before_min_tokens_and_ends_behind_it_counts(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, "seEND", stop=("END",), min_tokens=4)
    assert output == Output("se", FinishReason.STOP, "END", ["s", "e", "", "", ""])
    assert follow(tokenizer, "seEND", stop=("END",), min_tokens=5).stop_reason == "END"
    assert follow(tokenizer, "seEND", stop=("END",), min_tokens=6).parts == ["s", "e", "", "", "END"]


def test_a_stop_string_complete_before_min_tokens_does_not_count_within_a_longer_one(tokenizer: Tokenizer) -> None:
    output = follow(tokenizer, "abcx", stop=("abcd", "bc"), min_tokens=4)
    assert (output.text, output.finish_reason) == ("abcx", None)
    assert follow(tokenizer, "abcd", stop=("abcd", "bc"), min_tokens=4).stop_reason == "abcd"
    assert follow(tokenizer, "abcbc", stop=("abcd", "bc"), min_tokens=4) == Output(
        "abc", FinishReason.STOP, "bc", ["", "", "", "abc", ""]
    )


@pytest.mark.parametrize(("include", "text"), [(False, "a"), (True, "aXY")])
def test_a_stop_string_is_part_of_the_text_where_asked_for(tokenizer: Tokenizer, include: bool, text: str) -> None:
    assert follow(tokenizer, "aXY", stop=("XY",), include_stop=include) == Output(
        text, FinishReason.STOP, "XY", ["a", "", text[1:]]
    )


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_a_stop_token_is_part_of_the_text_where_it_has_one_and_is_asked_for(
    tokenizer: Tokenizer, include: bool, skip: bool
) -> None:
    changes: dict[str, Any] = {"include_stop": include, "skip_special_tokens": skip}
    assert follow(tokenizer, "ab", stop_token_ids=(98,), **changes).text == ("ab" if include else "a")
    assert follow(tokenizer, [97, END_TOKEN], **changes).text == ("a<|end|>" if include and not skip else "a")


def test_special_tokens_show_where_asked_for(tokenizer: Tokenizer) -> None:
    tokens = [97, END_TOKEN, 257, 98]
    assert follow(tokenizer, tokens, ignore_eos=True).text == "ab"
    assert follow(tokenizer, tokens, ignore_eos=True, skip_special_tokens=False).text == "a<|end|><|start|>b"


def test_an_event_carries_what_is_known_of_the_sequence(tokenizer: Tokenizer) -> None:
    sequence = Sequence(1, [65], SamplingParams(max_tokens=9))
    sequence.cached_tokens, sequence.first_scheduled_s = 128, 4.5
    output = SequenceOutput(sequence, tokenizer, frozenset())
    logprob = TokenLogprob(97, -0.5)
    event = output.accept([SampledToken(97, logprob)])
    assert event == TokenEvent(text="a", token_ids=(97,), logprobs=(logprob,), cached_tokens=128, first_scheduled_s=4.5)
    assert sequence.tokens == [65, 97]
    assert output.accept([SampledToken(98)]).logprobs is None


@pytest.mark.parametrize(
    ("text", "changes", "kept", "finish", "stop_reason"),
    [
        ("abcd", {}, "abcd", None, None),
        ("abcd", {"max_tokens": 3}, "abc", FinishReason.LENGTH, None),
        ("abcd", {"stop_token_ids": (99,)}, "ab", FinishReason.STOP, 99),
        ("abcd", {"stop": ("bc",)}, "a", FinishReason.STOP, "bc"),
        ("abab", {"stop": ("ab",), "min_tokens": 3}, "ab", FinishReason.STOP, "ab"),
    ],
)
def test_several_tokens_of_a_step_end_where_single_ones_would(
    tokenizer: Tokenizer,
    text: str,
    changes: dict[str, Any],
    kept: str,
    finish: FinishReason | None,
    stop_reason: str | int | None,
) -> None:
    params = SamplingParams(**({"max_tokens": 9, "logprobs": 0} | changes))
    sequence = Sequence(1, [65], params)
    output = SequenceOutput(sequence, tokenizer, frozenset({END_TOKEN}))
    event = output.accept([SampledToken(token, TokenLogprob(token, -1.0)) for token in text.encode()])
    assert (event.text, event.finish_reason, event.stop_reason) == (kept, finish, stop_reason)
    assert sequence.tokens == [65, *event.token_ids]
    assert event.logprobs is not None
    assert [entry.token_id for entry in event.logprobs] == list(event.token_ids)
    singly = follow(tokenizer, list(event.token_ids), **changes)
    assert (singly.text, singly.finish_reason) == (event.text, finish)
