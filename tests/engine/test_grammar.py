"""What compiles, what does not and why, and what would take the server with it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tokenizers
from llguidance import LLMatcher
from tokenizers import decoders, normalizers

from handler.engine import trial
from handler.engine.grammar import Grammar, GrammarCompiler, GrammarKind, GrammarSpec, Vocabulary
from handler.engine.snapshot import Snapshot
from handler.engine.tokenizer import Tokenizer
from handler.errors import InvalidRequestError, OverloadedError
from tests.tiny_models import END_TOKEN, VOCAB_SIZE, byte_tokenizer


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_tokenizer().save(str(path))
    return path


@pytest.fixture(scope="module")
def compiler(tokenizer_file: Path) -> GrammarCompiler:
    return GrammarCompiler(Tokenizer(tokenizer_file.parent), tokenizer_file, (END_TOKEN,), VOCAB_SIZE)


def schema(value: Any) -> GrammarSpec:
    return GrammarSpec("json_schema", json.dumps(value))


def takes(grammar: Grammar, text: str) -> bool:
    """Whether the whole text matches: byte tokens are the text's bytes."""
    matcher = grammar.start()
    return matcher.consume_tokens(list(text.encode())) and matcher.is_accepting()


def refusal(compiler: GrammarCompiler, spec: GrammarSpec) -> str:
    with pytest.raises(InvalidRequestError) as caught:
        compiler.compile(spec, "some.field")
    assert caught.value.param == "some.field"
    assert str(caught.value).startswith("some.field cannot be compiled: ")
    return str(caught.value)


ODD = ["cat", 'a "dog"\n', "\\d", "\x7f", "🐈", "ca"]


@pytest.mark.parametrize(
    ("kind", "text", "good", "bad"),
    [
        ("json_object", "", ['{}', '{"a": [1, {"b": null}]}'], ["[]", "1", '"a"', '{"a":1}', "{ }", '{"a": 1,"b": 2}']),
        ("json_schema", '{"type": "array", "items": {"type": "integer"}}', ["[]", "[1, -2]"], ["[1,2]", "[1.5]", "{}"]),
        ("regex", "[a-c]{2,3}x?", ["ab", "abcx"], ["a", "abcd", "ab\n"]),
        ("choice", json.dumps(ODD), ODD, ["c", "dog", "1", "catcat"]),
        ("grammar", 'start: "a" b\nb: "b" b | "c"', ["ac", "abbc"], ["c", "ab"]),
        ("grammar", 'root ::= "a" b\nb ::= "b" b | "c"', ["ac", "abbc"], ["c", "ab"]),
    ],
)  # fmt: skip
def test_what_matches(kind: GrammarKind, text: str, good: list[str], bad: list[str], compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(GrammarSpec(kind, text), "field")
    assert [takes(grammar, each) for each in good] == [True] * len(good)
    assert [takes(grammar, each) for each in bad] == [False] * len(bad)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (schema({"type": "thing"}), "thing"),
        (schema({"not": {"type": "string"}}), '"not"'),
        (schema([1]), "object"),
        (schema({"$ref": "#/$defs/missing"}), "missing"),
        (schema({"$ref": "http://localhost/schema"}), "not fetch"),
        (schema({"$ref": "#"}), "nothing can match it"),
        (schema(False), "object schema"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "look-around"),
        (GrammarSpec("json_schema", "{"), "EOF"),
        (GrammarSpec("regex", "(a"), "unclosed group"),
        (GrammarSpec("grammar", "start: missing"), "missing"),
        (GrammarSpec("grammar", "root ::= missing"), "missing"),
        (GrammarSpec("grammar", "start: ("), "start: ("),
    ],
)
def test_what_does_not_compile_says_why(spec: GrammarSpec, reason: str, compiler: GrammarCompiler) -> None:
    message = refusal(compiler, spec)
    assert reason in message
    assert "\n" not in message
    assert len(message) < 500


def chain(length: int) -> dict[str, Any]:
    """Definitions that refer to each other in a row: each is a frame on the stack or more."""
    links: dict[str, Any] = {str(i): {"properties": {"a": {"$ref": f"#/$defs/{i + 1}"}}} for i in range(length)}
    return {"$defs": links | {str(length): {"type": "string"}}, "$ref": "#/$defs/0"}


HOSTILE = {
    "an automaton of a million states": schema({"type": "integer", "multipleOf": 1_000_003}),
    "an intersection of periods": GrammarSpec(
        "grammar", "start: A\nA: " + " & ".join(f"/(.{{{n}}})*/" for n in (7, 11, 13, 17, 19, 23))
    ),
    "a long row of references": schema(chain(4000)),
    "a long row of rules": GrammarSpec(
        "grammar", "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(9000)) + '\nr9000: "a"'
    ),
    "deep parentheses": GrammarSpec("grammar", "root ::= " + "(" * 9000 + '"a"' + ")" * 9000),
    "ten thousand properties": schema({"properties": {f"k{i}": {"type": "string"} for i in range(9000)}}),
    "a huge enumeration": schema({"enum": [f"value {i}" for i in range(100_000)]}),
    "an intersection of alternatives": schema(
        {"allOf": [{"anyOf": [{"properties": {f"k{i}{j}": True}} for j in range(2)]} for i in range(22)]}
    ),
    "nested repetitions": GrammarSpec("regex", "((((a{100}){100}){100}){100}){100}b"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_grammars_are_refused_or_cost_little(name: str, compiler: GrammarCompiler) -> None:
    with contextlib.suppress(InvalidRequestError):
        compiler.compile(HOSTILE[name], "field")
    assert takes(compiler.compile(GrammarSpec("choice", '["still here"]'), "field"), "still here")


@pytest.mark.parametrize(
    "value", [{"type": "string", "maxLength": 10**9}, {"items": True, "type": "array", "maxItems": 10**9}, chain(90)]
)
def test_what_only_looks_large_compiles(value: dict[str, Any], compiler: GrammarCompiler) -> None:
    compiler.compile(schema(value), "field")


def test_the_same_grammar_is_compiled_once(compiler: GrammarCompiler) -> None:
    spec = GrammarSpec("choice", '["once"]')
    assert compiler.compile(spec, "a") is compiler.compile(spec, "b")


def test_the_oldest_results_are_forgotten(compiler: GrammarCompiler) -> None:
    first = compiler.compile(GrammarSpec("choice", '["first"]'), "field")
    for number in range(80):
        compiler.compile(GrammarSpec("choice", f'["{number}"]'), "field")
    assert compiler.compile(GrammarSpec("choice", '["first"]'), "field") is not first
    assert len(compiler._results) <= 64


def test_many_threads_compile_side_by_side(tokenizer_file: Path) -> None:
    compiler = GrammarCompiler(Tokenizer(tokenizer_file.parent), tokenizer_file, (END_TOKEN,), VOCAB_SIZE)
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        grammar = compiler.compile(GrammarSpec("choice", f'["number {number % 3}"]'), "field")
        results[number] = takes(grammar, f"number {number % 3}") and not takes(grammar, f"number {(number + 1) % 3}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(12), True)


def allowed(matcher: LLMatcher) -> list[int]:
    """Tokens that may come next."""
    mask = matcher.compute_bitmask()
    return [token for token in range(VOCAB_SIZE) if mask[token // 8] >> token % 8 & 1]


def test_every_end_token_ends(tokenizer_file: Path) -> None:
    compiler = GrammarCompiler(Tokenizer(tokenizer_file.parent), tokenizer_file, (END_TOKEN, 256), VOCAB_SIZE)
    may_end, must_end = (compiler.compile(GrammarSpec("regex", text), "field").start() for text in ("a+", "a"))
    assert allowed(may_end) == allowed(must_end) == [ord("a")]
    assert may_end.consume_token(ord("a"))
    assert must_end.consume_token(ord("a"))
    assert allowed(may_end) == [ord("a"), 256, END_TOKEN]
    assert allowed(must_end) == [256, END_TOKEN]
    assert may_end.validate_tokens([256]) == may_end.validate_tokens([END_TOKEN]) == 1


def test_without_end_tokens_nothing_would_be_complete(tokenizer_file: Path) -> None:
    assert "no end token" in refusal(
        GrammarCompiler(Tokenizer(tokenizer_file.parent), tokenizer_file, (), VOCAB_SIZE), GrammarSpec("json_object")
    )


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path, tokenizer_file: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"decoder": {"type": "WordPiece"}, "added_tokens": [], "model": {"vocab": {}}}')
    assert "tokenizer" in refusal(
        GrammarCompiler(Tokenizer(tokenizer_file.parent), path, (0,), 10), GrammarSpec("json_object")
    )


def test_no_boot_pays_for_grammars() -> None:
    program = "import sys, handler.engine.core; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def check_tokens(directory: Path, end_token: int, vocab_size: int) -> None:
    vocabulary = Vocabulary(str(directory / "tokenizer.json"), (end_token,), vocab_size)
    own, read = vocabulary.open_beside(Tokenizer(directory)), vocabulary.open()
    assert own.is_canonical == read.is_canonical
    for token in range(vocab_size):
        assert own.dbg_tokens([token]) == read.dbg_tokens([token])
        assert own.is_special_token(token) == read.is_special_token(token)
    for text in ('{"name": "', "hello world", "  two", "äö🐈", "a<|end|>b"):
        assert own.tokenize_str(text) == read.tokenize_str(text)


def test_a_vocabulary_in_use_is_the_one_on_disk(tokenizer_file: Path, embedded_snapshot: Snapshot) -> None:
    check_tokens(tokenizer_file.parent, END_TOKEN, VOCAB_SIZE + 60)  # as where the model's is padded
    check_tokens(embedded_snapshot.directory, 2, 49152)


def test_a_vocabulary_with_texts_in_sentencepiece_form_is_the_one_on_disk(tmp_path: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "h", "e", "▁h", "▁▁"]
    model = tokenizers.models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[("▁", "h"), ("▁", "▁")], byte_fallback=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    check_tokens(tmp_path, 2, len(tokens))


def test_the_first_grammar_reads_no_large_tokenizer_with_the_gil(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "_tokenizer", None)
    monkeypatch.setattr(Vocabulary, "open", pytest.fail)
    compiler.compile(GrammarSpec("choice", '["read again"]'), "field")


def test_a_refusal_for_a_busy_machine_is_not_for_good(
    compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = GrammarSpec("choice", '["later"]')
    compiler.compile(GrammarSpec("choice", '["awake"]'), "field")
    child = compiler._trial._child
    assert child is not None
    child._process.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(trial, "TIMEOUT_S", 0.1)
    with pytest.raises(OverloadedError):
        compiler.compile(spec, "field")
    monkeypatch.undo()
    assert takes(compiler.compile(spec, "field"), "later")


def test_what_takes_too_long_ends_though_nobody_waits(compiler: GrammarCompiler) -> None:
    compiler.compile(GrammarSpec("choice", '["warm"]'), "field")
    child = compiler._trial._child
    assert child is not None
    stdin, stdout = child._process.stdin, child._process.stdout
    assert stdin is not None
    assert stdout is not None
    stdin.write(msgspec.json.encode(HOSTILE["an intersection of periods"]) + b"\n")
    stdin.close()
    stdout.close()
    assert child._process.wait(60) == -signal.SIGPROF


def test_modules_of_the_working_directory_are_not_taken_for_ours(
    tokenizer_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "handler.py").write_text("raise SystemExit('some platform wants a file of this name')")
    monkeypatch.chdir(tmp_path)
    own = GrammarCompiler(Tokenizer(tokenizer_file.parent), tokenizer_file, (END_TOKEN,), VOCAB_SIZE)
    assert takes(own.compile(GrammarSpec("choice", '["found"]'), "field"), "found")
