from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, processors

from handler.engine.snapshot import Snapshot
from handler.engine.tokenizer import StopMatcher, TextStream, Tokenizer
from handler.errors import CorruptSnapshotError
from tests.tiny_models import END_TOKEN, byte_tokenizer

# The embedded vocabulary has no token for some control characters and for what begins a character above U+3FFFF.
characters = st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs", "Cc"])
AWKWARD = ["👩‍👩‍👧‍👦", "é", "e\u0301", "नि", "🇩🇪", "\ufffd", "\u200d", "ﷺ", "a", " ", "\n", "日本", "\U0003fffd", "ß"]
texts = st.lists(st.one_of(st.sampled_from(AWKWARD), st.text(characters, max_size=4)), max_size=12).map("".join)
some_bytes = st.one_of(st.integers(0, 255), st.sampled_from([0xFF, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80]))


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("bytes")
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


@pytest.fixture(scope="module")
def embedded(embedded_snapshot: Snapshot) -> Tokenizer:
    return Tokenizer(embedded_snapshot.directory)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Pieces with a mark for the space, and bytes for what has no piece, as Llama 2 and Mistral have them."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁hello", "▁world", "▁", "!", "is"]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=[], byte_fallback=True)
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["</s>"])
    directory = tmp_path_factory.mktemp("pieces")
    tokenizer.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


def streamed(tokenizer: Tokenizer, tokens: list[int], prompt: list[int] | None = None) -> str:
    stream = TextStream(tokenizer, prompt or [])
    return "".join([*map(stream.push, tokens), stream.flush()])


@given(texts)
def test_text_comes_through_whole(bytewise: Tokenizer, embedded: Tokenizer, text: str) -> None:
    for tokenizer in (bytewise, embedded):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        stream = TextStream(tokenizer, [])
        parts = [stream.push(token) for token in tokens]
        assert "".join(parts) + stream.flush() == text
        if "\ufffd" not in text:
            assert not any("\ufffd" in part for part in parts), "a character was split"


@given(texts, texts)
def test_text_goes_on_where_the_prompt_ended(bytewise: Tokenizer, embedded: Tokenizer, prompt: str, text: str) -> None:
    for tokenizer in (bytewise, embedded):
        before = tokenizer.encode(prompt, add_special_tokens=False)
        assert streamed(tokenizer, tokenizer.encode(text, add_special_tokens=False), before) == text


@settings(max_examples=400)
@given(st.lists(some_bytes, max_size=60))
def test_any_bytes_come_through_as_the_whole_decodes(bytewise: Tokenizer, tokens: list[int]) -> None:
    assert streamed(bytewise, tokens) == bytewise.decode(tokens) == bytes(tokens).decode(errors="replace")


@settings(max_examples=200)
@given(st.lists(st.one_of(st.integers(0, 49151), st.integers(17, 300)), max_size=40))
def test_any_tokens_come_through_as_the_whole_decodes(embedded: Tokenizer, tokens: list[int]) -> None:
    assert streamed(embedded, tokens) == embedded.decode(tokens)


def test_a_character_after_a_long_run_of_broken_ones_is_whole(bytewise: Tokenizer) -> None:
    for length in range(30):
        tokens = [0xFF] * length + list("€".encode())
        assert streamed(bytewise, tokens) == "\ufffd" * length + "€"


def test_broken_bytes_without_end_do_not_pile_up(bytewise: Tokenizer) -> None:
    stream = TextStream(bytewise, [])
    text = ""
    for _ in range(300):
        text += stream.push(0xFF)
        assert len(stream._tokens) < 16
    assert len(text) > 290
    assert text + stream.flush() == "\ufffd" * 300


def test_tokens_without_text_do_not_pile_up_and_do_not_displace_the_context(sentencepiece: Tokenizer) -> None:
    hello, world, end = (258, 259, 1)
    assert sentencepiece.decode([hello, end, world]) == "hello world"
    stream = TextStream(sentencepiece, [hello])
    assert [stream.push(end) for _ in range(50)] == [""] * 50
    assert len(stream._tokens) < 16
    assert stream.push(world) == " world"


def test_pieces_keep_their_spaces_and_bytes_their_characters(sentencepiece: Tokenizer) -> None:
    tokens = [258, 259, *(2 + byte for byte in "€".encode()), 260, 262, 261]
    stream = TextStream(sentencepiece, [258])
    assert [stream.push(token) for token in tokens] == [" hello", " world", "", "", "€", " ", "is", "!"]


def test_special_tokens_have_no_text(bytewise: Tokenizer) -> None:
    assert streamed(bytewise, [72, END_TOKEN, 105]) == "Hi"
    assert bytewise.decode([72, END_TOKEN], skip_special_tokens=False) == "H<|end|>"


@given(texts)
def test_the_bytes_of_the_tokens_are_those_of_the_text(bytewise: Tokenizer, embedded: Tokenizer, text: str) -> None:
    for tokenizer in (bytewise, embedded):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(map(tokenizer.token_bytes, tokens)) == text.encode()


def test_every_token_has_bytes(embedded: Tokenizer, sentencepiece: Tokenizer) -> None:
    for tokenizer in (embedded, sentencepiece):
        assert all(tokenizer.token_bytes(token) for token in range(tokenizer._tokenizer.get_vocab_size()))
    assert embedded.token_bytes(10**6) == b""  # the rows of a padded vocabulary
    assert sentencepiece.token_bytes(258) == b" hello"
    assert sentencepiece.token_bytes(2 + 0xE2) == b"\xe2"


def test_a_piece_outside_the_byte_alphabet_stands_for_itself(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    vocab = tokenizer.get_vocab(with_added_tokens=False) | {"日本": 256}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    loaded = Tokenizer(tmp_path)
    assert loaded.token_bytes(256).decode() == loaded.decode([256]) == "日本"


@given(texts.filter(lambda text: "\ufffd" not in text))
def test_tokens_are_found_in_their_text(bytewise: Tokenizer, embedded: Tokenizer, text: str) -> None:
    for tokenizer in (bytewise, embedded):
        tokens, starts = tokenizer.encode_located(text, add_special_tokens=True)
        assert tokens == tokenizer.encode(text, add_special_tokens=True)
        decoded, certain = tokenizer.decode_located(tokens)
        assert decoded == text
        # What comes before the half of a character is certain only with the other half.
        assert all(start - 1 <= other <= start for start, other in zip(starts, certain, strict=True))
        for token, start in zip(tokens, starts, strict=True):
            written = tokenizer.token_bytes(token).decode(errors="ignore")
            assert text[start:].startswith(written) or len(tokenizer.token_bytes(token)) != len(written.encode())


def test_special_tokens_have_their_place_in_a_text(bytewise: Tokenizer) -> None:
    assert bytewise.encode_located("a<|end|>b", add_special_tokens=True) == ([97, END_TOKEN, 98], [0, 1, 8])
    assert bytewise.decode_located([97, END_TOKEN, 98]) == ("a<|end|>b", [0, 1, 8])


def test_a_token_that_the_tokenizer_adds_takes_no_place(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A <|end|>", special_tokens=[("<|start|>", 257), ("<|end|>", END_TOKEN)]
    )
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path).encode_located("ab", add_special_tokens=True) == ([257, 97, 98, END_TOKEN], [0, 0, 1, 2])
    assert Tokenizer(tmp_path).encode_located("ab", add_special_tokens=False) == ([97, 98], [0, 1])


def test_special_tokens_in_the_text_count_as_such(bytewise: Tokenizer) -> None:
    assert bytewise.encode("a<|end|>", add_special_tokens=False) == [97, END_TOKEN]
    assert bytewise._tokenizer.get_vocab_size() == 259


@pytest.mark.parametrize("content", [None, "{}", "not json"])
def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CorruptSnapshotError, match=r"tokenizer\.json"):
        Tokenizer(tmp_path)


def test_padding_and_truncation_of_the_file_are_ignored(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert len(Tokenizer(tmp_path).encode("abcdefghijkl", add_special_tokens=True)) == 12
    assert len(Tokenizer(tmp_path).encode("a", add_special_tokens=True)) == 1


def first_stop(text: str, stops: tuple[str, ...]) -> tuple[str, str | None]:
    """The naive way: letter by letter, until some stop string is complete; the longest of those that are."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            longest = max(found, key=len)
            return text[: end - len(longest)], longest
    return text, None


def matched(parts: list[str], stops: tuple[str, ...]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    shown = ""
    for part in parts:
        text, stop = matcher.push(part)
        shown += text
        if stop is not None:
            assert matcher.flush() == ""
            return shown, stop
        assert not any(stop in shown for stop in stops), "a stop string leaked"
    return shown + matcher.flush(), None


few_letters = st.text("ab", min_size=1, max_size=5)


@settings(max_examples=500)
@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(few_letters, max_size=4).map(tuple))
def test_text_ends_before_the_first_stop_however_it_was_cut(parts: list[str], stops: tuple[str, ...]) -> None:
    assert matched(parts, stops) == first_stop("".join(parts), stops)


@given(st.lists(st.text("abc", max_size=4), max_size=12), st.lists(few_letters, min_size=1, max_size=4).map(tuple))
def test_no_more_is_held_back_than_could_become_a_stop(parts: list[str], stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(stops)
    text = shown = ""
    for part in parts:
        new, stop = matcher.push(part)
        if stop is not None:
            return
        text, shown = text + part, shown + new
        held = text[len(shown) :]
        assert text == shown + held
        starts = [text[-length:] for length in range(1, len(text) + 1)]
        possible = [end for end in starts if any(stop.startswith(end) for stop in stops)]
        assert held == max(possible, key=len, default="")


@pytest.mark.parametrize(
    ("parts", "stops", "expected"),
    [
        (["Hello Wor", "ld"], ("World",), ("Hello ", "World")),
        (["Hello Wor", "k"], ("World",), ("Hello Work", None)),
        (["aXbY"], ("Y", "X"), ("a", "X")),
        (["ab"], ("a", "ab"), ("", "a")),  # of two that begin together the shorter is complete first
        (["ab"], ("b", "ab"), ("", "ab")),  # of two that end together the longer hides more
        (["ab", "cd"], ("abcd", "bc"), ("a", "bc")),
        (["abcd"], ("abcd", "bc"), ("a", "bc")),
        (["aaa", "b"], ("aab",), ("a", "aab")),
        (["\n", "\n", "\nx"], ("\n\n\n",), ("", "\n\n\n")),
    ],
)
def test_stops(parts: list[str], stops: tuple[str, ...], expected: tuple[str, str | None]) -> None:
    assert matched(parts, stops) == expected


def test_special_tokens_are_shown_where_that_is_asked_for(embedded_snapshot: Snapshot) -> None:
    tokenizer = Tokenizer(embedded_snapshot.directory)
    shown = tokenizer.special_token_id("<|im_start|>")
    assert shown is not None
    assert tokenizer.special_token_id("Paris") is None
    tokens = tokenizer.encode("A <|im_start|> b<|im_end|> c<|im_start|><|im_start|>\u00e9", add_special_tokens=False)

    def text(stream: TextStream) -> str:
        return "".join(stream.push(token) for token in tokens) + stream.flush()

    assert text(TextStream(tokenizer, [])) == "A  b c\u00e9"
    assert text(TextStream(tokenizer, [], (shown,))) == "A <|im_start|> b c<|im_start|><|im_start|>\u00e9"


def test_what_a_shown_token_interrupts_comes_before_it(embedded_snapshot: Snapshot) -> None:
    tokenizer = Tokenizer(embedded_snapshot.directory)
    shown = tokenizer.special_token_id("<|im_start|>")
    assert shown is not None
    crab = tokenizer.encode("\U0001f980", add_special_tokens=False)
    assert len(crab) > 1
    stream = TextStream(tokenizer, [], (shown,))
    assert stream.push(crab[0]) == ""
    assert stream.push(shown) == "\ufffd<|im_start|>"
    assert stream.push(tokenizer.encode("x", add_special_tokens=False)[0]) == "x"


@pytest.mark.parametrize("encode", [Tokenizer.encode, Tokenizer.encode_located])
def test_long_text_leaves_other_threads_their_turn(embedded: Tokenizer, encode: Callable[..., object]) -> None:
    """Event loop and engine wait for the GIL otherwise, for seconds with what a body can hold."""
    text = "no two words are long " * 20_000
    span: list[float] = []

    def work() -> None:
        span.append(time.monotonic())
        encode(embedded, text, add_special_tokens=False)
        span.append(time.monotonic())

    worker = threading.Thread(target=work)
    worker.start()
    turns = []
    while worker.is_alive():
        turns.append(time.monotonic())
        time.sleep(0.001)
    start, end = span
    assert any(start + 0.2 * (end - start) < turn < start + 0.6 * (end - start) for turn in turns)


def test_long_text_has_the_tokens_of_its_parts(bytewise: Tokenizer) -> None:
    text = "né" * 5000
    assert bytewise.encode(text, add_special_tokens=False) == bytewise.encode("né", add_special_tokens=False) * 5000
