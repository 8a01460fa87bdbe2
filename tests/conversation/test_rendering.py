from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from handler.conversation.conversation import Conversation, TemplateOptions, Tool, ToolChoice
from handler.conversation.rendering import render_prompt
from handler.engine.chat_template import ChatTemplate
from handler.errors import InvalidRequestError
from tests import tool_templates as templates
from tests.tool_templates import CONVERSATION, TOKENS, WEATHER

TOOL = Tool(name="get_weather", description="Tells it.", parameters=WEATHER, param="tools[0].function.parameters")
DESCRIBED = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Tells it.", "parameters": WEATHER},
}
OPENAI_ID = "call_0123456789abcdef01234567"


def render(source: str, messages: list[dict[str, Any]], **fields: Any) -> str:
    options = {"tools": (TOOL,)} | fields
    return render_prompt(Conversation(messages=messages, **options), ChatTemplate(source, TOKENS))


def with_id(call_id: str) -> list[dict[str, Any]]:
    system, user, assistant, result = CONVERSATION
    calls = [call | {"id": call_id} for call in assistant["tool_calls"]]
    unnamed = {key: value for key, value in result.items() if key != "name"}
    return [system, user, assistant | {"tool_calls": calls}, unnamed | {"tool_call_id": call_id}]


@pytest.mark.parametrize("name", ["QWEN", "HERMES", "LLAMA", "NEMO", "NAMED"])
def test_tools_stand_in_the_prompt_as_in_transformers(name: str) -> None:
    source = getattr(templates, name)
    for messages in (CONVERSATION[:2], CONVERSATION):
        expected, _ = render_jinja_template(
            [messages], tools=[DESCRIBED], chat_template=source, add_generation_prompt=True, **TOKENS
        )
        assert render(source, messages) == expected[0]
        assert "get_weather" in expected[0]


@pytest.mark.parametrize(
    ("name", "call", "result"),
    [
        (
            "QWEN",
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich", "unit": "c"}}\n</tool_call>',
            "<|im_start|>user\n<tool_response>\n18\n</tool_response><|im_end|>",
        ),
        (
            "LLAMA",
            '{"name": "get_weather", "parameters": {"city": "Zürich", "unit": "c"}}<|eot_id|>',
            '<|start_header_id|>ipython<|end_header_id|>\n\n"18"<|eot_id|>',
        ),
        (
            "NEMO",
            '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Zürich", "unit": "c"}, "id": "a1B2c3D4e"}]',
            '[TOOL_RESULTS]{"content": 18, "call_id": "a1B2c3D4e"}[/TOOL_RESULTS]',
        ),
        ("NAMED", '[TOOL_CALLS]get_weather[ARGS]{"city": "Zürich", "unit": "c"}</s>', '"call_id": "a1B2c3D4e"'),
        (
            "PLAIN",
            '<|im_start|>assistant\n<tool_call>\n{"name": "get_weather", "arguments": '
            '{"city": "Zürich", "unit": "c"}}\n</tool_call><|im_end|>',
            "<|im_start|>user\n<tool_response>\n18\n</tool_response><|im_end|>",
        ),
    ],
)
def test_calls_and_results_come_back_in_the_models_own_form(name: str, call: str, result: str) -> None:
    rendered = render(getattr(templates, name), CONVERSATION)
    assert call in rendered
    assert result in rendered


@pytest.mark.parametrize("name", ["NEMO", "NAMED"])
def test_mistral_gets_ids_of_nine_characters_that_stay_the_same(name: str) -> None:
    source = getattr(templates, name)
    rendered = render(source, with_id(OPENAI_ID))
    assert rendered == render(source, with_id(OPENAI_ID))
    assert OPENAI_ID not in rendered
    assert rendered != render(source, with_id(OPENAI_ID[:-1] + "8"))


def test_other_templates_get_ids_as_they_came() -> None:
    assert render(
        templates.QWEN + "{% for message in messages %}{{ message.tool_call_id }}{% endfor %}", with_id(OPENAI_ID)
    ).endswith(OPENAI_ID)


def test_a_result_is_named_after_the_call_that_it_answers() -> None:
    assert '{"name": "get_weather", "content": "18"}' in render(templates.HERMES, with_id(OPENAI_ID))
    orphan = [CONVERSATION[1], {"role": "tool", "content": "18", "tool_call_id": "x"}]
    with pytest.raises(InvalidRequestError, match="results need a name"):
        render(templates.HERMES, orphan)


@pytest.mark.parametrize("name", ["QWEN", "LLAMA", "NEMO", "PLAIN", "NO_SYSTEM"])
def test_tools_that_may_not_be_called_are_not_shown(name: str) -> None:
    source, asked = getattr(templates, name), CONVERSATION[1:2]
    unshown = render(source, asked, tool_choice=ToolChoice("none"))
    assert unshown == render(source, asked, tools=())
    assert "get_weather" not in unshown
    assert "get_weather" in render(source, asked)


def test_a_tool_without_parameters_takes_none() -> None:
    bare = Tool(name="now", param="tools[0].function.parameters")
    assert (
        '{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}'
        in render(templates.QWEN, CONVERSATION[1:2], tools=(bare,))
    )


def test_what_the_template_refuses_names_the_field_that_the_messages_came_in() -> None:
    call = CONVERSATION[2]["tool_calls"][0]
    twice = [*CONVERSATION[:2], CONVERSATION[2] | {"tool_calls": [call, call]}]
    with pytest.raises(InvalidRequestError, match="only single tool-calls") as caught:
        render(templates.LLAMA, twice, messages_param="input")
    assert caught.value.param == "input"


def open_end(messages: list[dict[str, Any]], **options: Any) -> str:
    template = TemplateOptions(continue_final_message=True, **options)
    return render(templates.LLAMA, messages, template=template, tools=())


@pytest.mark.parametrize("content", ["Once upon", "Once upon a ", " spaced", ""])
def test_a_message_is_left_open_as_in_transformers(content: str) -> None:
    messages = [CONVERSATION[1], {"role": "assistant", "content": content}]
    rendered = open_end(messages)
    if content.strip():
        expected, _ = render_jinja_template(
            [messages], chat_template=templates.LLAMA, continue_final_message=True, **TOKENS
        )
        assert rendered == expected[0]
    assert not rendered.endswith("<|eot_id|>")


def test_a_message_is_not_continued_where_that_makes_no_sense() -> None:
    spoken = [CONVERSATION[1], {"role": "assistant", "content": "Once"}]
    assert open_end(spoken, add_generation_prompt=False) == open_end(spoken)
    with pytest.raises(InvalidRequestError, match="exclude each other") as caught:
        open_end(spoken, add_generation_prompt=True)
    assert caught.value.param == "continue_final_message"
    with pytest.raises(InvalidRequestError, match="must be the assistant's") as caught:
        open_end(CONVERSATION[:2])
    assert caught.value.param == "messages"
    with pytest.raises(InvalidRequestError, match="has tool calls"):
        open_end(CONVERSATION[:3])
    hidden = "{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}"
    with pytest.raises(InvalidRequestError, match="does not show the last message"):
        render(hidden, spoken, template=TemplateOptions(continue_final_message=True), tools=())


def test_the_head_of_the_answer_can_be_left_out() -> None:
    head = "<|im_start|>assistant\n"
    for asked, expected in ((None, True), (True, True), (False, False)):
        rendered = render(templates.PLAIN, CONVERSATION[1:2], template=TemplateOptions(add_generation_prompt=asked))
        assert rendered.endswith(head) is expected


def test_variables_reach_the_template_and_nothing_else_does() -> None:
    source = "{{ mood }}{{ bos_token }}{{ messages[0].content }}"
    asked = CONVERSATION[1:2]

    def with_variables(**variables: Any) -> str:
        return render(source, asked, tools=(), template=TemplateOptions(variables=variables))

    assert with_variables(mood="good ", bos_token="<b>").startswith("good <b>")
    for name in ("messages", "tools", "add_generation_prompt", "continue_final_message"):
        with pytest.raises(InvalidRequestError, match="is a field of the request itself") as caught:
            with_variables(**{name: []})
        assert caught.value.param == f"chat_template_kwargs.{name}"
    with pytest.raises(InvalidRequestError, match="has no variable 'enable_thinking'") as caught:
        with_variables(enable_thinking=False)
    assert caught.value.param == "chat_template_kwargs.enable_thinking"
