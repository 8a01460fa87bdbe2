from __future__ import annotations

from typing import Any

import msgspec
import pytest

from handler.conversation.conversation import Conversation, Tool, ToolChoice
from handler.conversation.output import parse_whole
from handler.conversation.planning import ConversationPlan, plan_conversation
from handler.engine.core import EngineCore
from handler.engine.grammar import GrammarSpec
from handler.engine.loaded import LoadedModel
from handler.errors import InvalidRequestError

USER = {"role": "user", "content": "Hi"}
ODD = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)"}}}
CALL = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


def tool(name: str = "now", **fields: Any) -> Tool:
    return Tool(name=name, param=f"tools[{name}]", **fields)


@pytest.fixture
def model(embedded_core: EngineCore) -> LoadedModel:
    return embedded_core.model


def plan(model: LoadedModel, *tools: Tool, **fields: Any) -> ConversationPlan:
    return plan_conversation(Conversation(messages=[USER], tools=tools, **fields), model)


def test_without_tools_all_output_is_text(model: LoadedModel) -> None:
    planned = plan(model)
    assert (planned.grammar, planned.parser, planned.shown_token_ids) == (None, None, ())
    text = model.tokenizer.decode(planned.prompt, skip_special_tokens=False)
    assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert plan(model, tool(), tool_choice=ToolChoice("none")) == planned


def test_without_tools_the_answer_has_the_form_that_was_asked_for(model: LoadedModel) -> None:
    planned = plan(model, output=GrammarSpec("regex", "a+"), output_param="guided_regex")
    assert planned.grammar is not None
    assert planned.grammar.spec == GrammarSpec("regex", "a+")
    assert planned.grammar_param == "guided_regex"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": ToolChoice("required")}, "tool_choice"),
        ({"tool_choice": ToolChoice("named", "now")}, "tool_choice"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"output": GrammarSpec("json_object")}, "response_format"),
        ({"tool_choice": ToolChoice("required"), "output": GrammarSpec("json_object")}, "tool_choice"),
    ],
)
def test_a_grammar_comes_with_the_field_that_asks_for_it(
    model: LoadedModel, fields: dict[str, Any], param: str
) -> None:
    planned = plan(model, tool(), **fields)
    assert planned.grammar is not None
    assert planned.grammar_param == param


def test_a_model_that_is_free_to_call_needs_no_grammar_but_for_strict_tools(model: LoadedModel) -> None:
    assert plan(model, tool(), tool(name="odd", parameters=ODD)).grammar is None
    strict = plan(model, tool(), tool(name="other", strict=True))
    assert strict.grammar is not None
    assert strict.grammar_param == "tools"


def test_only_the_named_function_has_to_be_one_that_can_be_compiled(model: LoadedModel) -> None:
    tools = (tool(), tool(name="odd", parameters=ODD))
    assert plan(model, *tools, tool_choice=ToolChoice("named", "now")).grammar is not None
    with pytest.raises(InvalidRequestError, match="cannot be compiled") as caught:
        plan(model, *tools, tool_choice=ToolChoice("required"))
    assert caught.value.param == "tools[odd]"


def test_a_form_that_cannot_be_compiled_is_named_beside_tools(model: LoadedModel) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be compiled") as caught:
        plan(model, tool(), output=GrammarSpec("regex", "(?=x)"), output_param="guided_regex")
    assert caught.value.param == "guided_regex"


@pytest.mark.parametrize(("mode", "stops"), [("auto", True), ("required", True), ("named", False)])
def test_each_choice_has_a_parser_of_its_own(model: LoadedModel, mode: Any, stops: bool) -> None:
    planned = plan(model, tool(), tool_choice=ToolChoice(mode, "now"))
    assert planned.parser is not None
    first, second = planned.parser(), planned.parser()
    assert [call.name for call in parse_whole(first, CALL).calls] == ["now"]
    assert first.stops_for_calls is stops
    assert not second.stops_for_calls


def test_a_model_without_a_template_has_no_conversations(model: LoadedModel) -> None:
    with pytest.raises(InvalidRequestError, match="no chat template") as caught:
        plan(msgspec.structs.replace(model, chat_template=None))
    assert caught.value.param == "messages"
