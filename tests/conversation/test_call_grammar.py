from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from handler.conversation.call_grammar import MAX_FORCED_CALLS, CallGrammar, arguments_schema
from handler.conversation.call_parser import CallParser
from handler.conversation.conversation import Tool
from handler.conversation.markers import MARKERS
from handler.conversation.output import ParsedOutput, parse_whole
from handler.engine.grammar import GrammarCompiler, GrammarSpec
from handler.engine.snapshot import Snapshot
from handler.engine.tokenizer import TextStream, Tokenizer
from handler.engine.tool_syntax import ToolSyntax
from handler.errors import InvalidRequestError
from tests.tool_templates import WEATHER

END = 2
PARAM = "tools[0].function.parameters"
TOOLS = (
    Tool(name="get_weather", parameters=WEATHER, strict=True, param=PARAM),
    Tool(name="get_weather_now", param="tools[1].function.parameters"),
)
LOOSE = (Tool(name="get_weather", parameters=WEATHER, param=PARAM),)


class Language:
    """The embedded model's tokenizer with grammars over it."""

    def __init__(self, directory: Path, vocab_size: int) -> None:
        self.tokenizer = Tokenizer(directory)
        self.grammars = GrammarCompiler(self.tokenizer, directory / "tokenizer.json", (END,), vocab_size)
        self.vocab_size = vocab_size

    def allows(self, spec: GrammarSpec, text: str) -> bool:
        """Whether the text is a whole sentence of the grammar."""
        matcher = self.grammars.compile(spec, "tools").start()
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        return all(matcher.consume_token(token) for token in tokens) and matcher.is_accepting()

    def babble(self, spec: GrammarSpec, rng: random.Random, shown: tuple[int, ...], limit: int = 400) -> str | None:
        """Text of tokens chosen blindly among those that the grammar allows; None if it has no end within the limit."""
        matcher = self.grammars.compile(spec, "tools").start()
        stream, text = TextStream(self.tokenizer, [], shown), ""
        for _ in range(limit):
            mask = matcher.compute_bitmask()
            allowed = [token for token in range(self.vocab_size) if mask[token >> 3] >> (token & 7) & 1]
            token = END if END in allowed else rng.choice(allowed)
            if token == END:
                return text + stream.flush()
            assert matcher.consume_token(token)
            text += stream.push(token)
        return None


@pytest.fixture(scope="module")
def plain(embedded_snapshot: Snapshot) -> Language:
    return Language(embedded_snapshot.directory, 49152)


@pytest.fixture(scope="module")
def special(embedded_snapshot: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Language:
    """Every marker is one special token, as with Mistral."""
    directory = tmp_path_factory.mktemp("special")
    tokenizer = tokenizers.Tokenizer.from_file(str(embedded_snapshot.directory / "tokenizer.json"))
    tokenizer.add_special_tokens(sorted({marker for markers in MARKERS.values() for marker in markers}))
    tokenizer.save(str(directory / "tokenizer.json"))
    return Language(directory, tokenizer.get_vocab_size())


@pytest.fixture(params=["plain", "special"])
def language(request: pytest.FixtureRequest) -> Language:
    found: Language = request.getfixturevalue(request.param)
    return found


def grammar(language: Language, syntax: ToolSyntax, tools: tuple[Tool, ...] = TOOLS, *, single: bool) -> CallGrammar:
    return CallGrammar(syntax, tools, language.tokenizer, at_most_one=single)


def read(syntax: ToolSyntax, text: str) -> ParsedOutput:
    return parse_whole(CallParser(syntax, frozenset(tool.name for tool in TOOLS)), text)


def written(syntax: ToolSyntax, *calls: tuple[str, str]) -> str:
    if syntax is ToolSyntax.HERMES:
        return "\n".join(
            f'<tool_call>\n{{"name": "{name}", "arguments": {text}}}\n</tool_call>' for name, text in calls
        )
    if syntax is ToolSyntax.LLAMA:
        return "; ".join(f'{{"name": "{name}", "parameters": {text}}}' for name, text in calls)
    if syntax is ToolSyntax.MISTRAL_LIST:
        objects = (f'{{"name": "{name}", "arguments": {text}}}' for name, text in calls)
        return f"[TOOL_CALLS] [{', '.join(objects)}]"
    return "".join(f"[TOOL_CALLS]{name}[ARGS]{text}" for name, text in calls)


GOOD = ("get_weather", '{"city": "Paris", "unit": "c"}')
EMPTY = ("get_weather_now", "{}")
WRONG = ("get_weather", '{"city": "Paris"}')
UNKNOWN = ("rm", "{}")


@pytest.mark.parametrize("syntax", ToolSyntax)
def test_forced_calls_are_good_calls_and_nothing_else(language: Language, syntax: ToolSyntax) -> None:
    forced = grammar(language, syntax, single=False).forced()
    single = grammar(language, syntax, single=True).forced()
    for spec in (forced, single):
        assert language.allows(spec, written(syntax, GOOD))
        assert language.allows(spec, written(syntax, EMPTY))
        for text in (written(syntax, WRONG), written(syntax, UNKNOWN), "Hello", "", "x" + written(syntax, GOOD)):
            assert not language.allows(spec, text)
    several = written(syntax, GOOD, EMPTY, GOOD)
    assert language.allows(forced, several) is (syntax is not ToolSyntax.LLAMA)
    assert not language.allows(single, several)
    assert not language.allows(forced, written(syntax, *[EMPTY] * (MAX_FORCED_CALLS + 1)))


@pytest.mark.parametrize("syntax", ToolSyntax)
def test_blind_choices_among_allowed_tokens_make_calls_that_can_be_answered(
    language: Language, syntax: ToolSyntax
) -> None:
    rng = random.Random(1)
    markers = (language.tokenizer.special_token_id(marker) for marker in MARKERS[syntax])
    shown = tuple(token for token in markers if token is not None)
    spec = grammar(language, syntax, single=True).forced()
    texts = [text for _ in range(4) if (text := language.babble(spec, rng, shown)) is not None]
    assert texts
    for text in texts:
        output = read(syntax, text)
        assert output.content == ""
        (call,) = output.calls
        assert call.is_complete
        arguments = json.loads(call.arguments)
        if call.name == "get_weather":
            assert set(arguments) == {"city", "unit"}
            assert arguments["unit"] in {"c", "f"}
        else:
            assert arguments == {}


@pytest.mark.parametrize("syntax", ToolSyntax)
def test_a_model_that_is_free_to_call_is_held_to_strict_schemas_once_it_does(
    language: Language, syntax: ToolSyntax
) -> None:
    free = grammar(language, syntax, single=False).free()
    assert language.allows(free, "Hello, {what} [is] <this>?")
    assert language.allows(free, written(syntax, GOOD))
    for call in (WRONG, UNKNOWN):
        assert not language.allows(free, written(syntax, call))
    if syntax is not ToolSyntax.LLAMA:
        assert language.allows(free, f"I look.\n{written(syntax, GOOD)}\nAnd again\n{written(syntax, EMPTY)} bye")
        assert not language.allows(free, f"I look.\n{written(syntax, WRONG)}")
    loose = grammar(language, syntax, LOOSE, single=False).free()
    assert language.allows(loose, written(syntax, WRONG))
    assert not language.allows(loose, written(syntax, UNKNOWN))


@pytest.mark.parametrize("syntax", ToolSyntax)
def test_a_model_that_is_free_to_call_once_calls_once(language: Language, syntax: ToolSyntax) -> None:
    once = grammar(language, syntax, single=True).free()
    assert language.allows(once, "Hello")
    assert language.allows(once, written(syntax, GOOD))
    assert not language.allows(once, written(syntax, GOOD, GOOD))
    assert not language.allows(once, f"{written(syntax, GOOD)}\n{written(syntax, GOOD)}")


@pytest.mark.parametrize(
    ("output", "good", "bad"),
    [
        (GrammarSpec("json_object"), '{"a": 1}', "Hello"),
        (GrammarSpec("json_schema", '{"type": "integer"}'), "12", '"12"'),
        (GrammarSpec("regex", r"a/b\/c+"), "a/b/cc", "ab"),
        (GrammarSpec("choice", '["yes", "\\"no\\"/"]'), '"no"/', "no"),
    ],
)
@pytest.mark.parametrize("syntax", ToolSyntax)
def test_an_answer_is_what_was_asked_for_or_a_call(
    plain: Language, syntax: ToolSyntax, output: GrammarSpec, good: str, bad: str
) -> None:
    spec = grammar(plain, syntax, single=True).beside(output, "response_format")
    assert plain.allows(spec, good)
    assert plain.allows(spec, written(syntax, GOOD))
    for text in (bad, written(ToolSyntax.HERMES, UNKNOWN), good + written(syntax, GOOD)):
        assert not plain.allows(spec, text)


def test_a_grammar_of_the_clients_own_cannot_stand_beside_calls(plain: Language) -> None:
    with pytest.raises(InvalidRequestError, match="cannot stand beside calls") as caught:
        grammar(plain, ToolSyntax.HERMES, single=True).beside(GrammarSpec("grammar", "start: /a/"), "guided_grammar")
    assert caught.value.param == "guided_grammar"
    with pytest.raises(InvalidRequestError, match="not valid JSON") as caught:
        grammar(plain, ToolSyntax.HERMES, single=True).beside(GrammarSpec("json_schema", "{"), "guided_json")
    assert caught.value.param == "guided_json"


@pytest.mark.parametrize(
    ("parameters", "closed"),
    [
        (None, True),
        ({"type": "object", "properties": {}}, True),
        ({"properties": {"a": {}}}, True),
        ({"type": "object"}, True),
        ({"type": "object", "additionalProperties": True}, False),
        ({"type": "object", "additionalProperties": {"type": "string"}}, False),
        ({"type": "object", "patternProperties": {"^x": {}}}, False),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}, False),
        ({"anyOf": [{"required": ["a"]}], "properties": {"a": {}}}, False),
    ],
)
def test_what_a_schema_does_not_name_is_not_written(parameters: dict[str, Any] | None, closed: bool) -> None:
    schema = arguments_schema(Tool(name="f", parameters=parameters, param=PARAM))
    assert schema["type"] == "object"
    assert (schema.get("additionalProperties") is False) is closed


@pytest.mark.parametrize("syntax", ToolSyntax)
def test_references_begin_in_the_tools_own_schema(plain: Language, syntax: ToolSyntax) -> None:
    schema = {"properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"], "$defs": {"city": {"const": "x"}}}
    tools = tuple(Tool(name=name, parameters=schema, param=PARAM) for name in ("get_weather", "get_weather_now"))
    spec = grammar(plain, syntax, tools, single=True).forced()
    assert plain.allows(spec, written(syntax, ("get_weather", '{"city": "x"}')))
    assert not plain.allows(spec, written(syntax, ("get_weather", '{"city": "y"}')))


def test_arguments_are_an_object(plain: Language) -> None:
    tools = (Tool(name="f", parameters={"type": "array"}, param=PARAM),)
    with pytest.raises(InvalidRequestError, match='type must be "object"') as caught:
        grammar(plain, ToolSyntax.HERMES, tools, single=True).forced()
    assert caught.value.param == PARAM
