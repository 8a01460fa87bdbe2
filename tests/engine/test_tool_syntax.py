from __future__ import annotations

import pytest

from handler.engine.chat_template import ChatTemplate
from handler.engine.tool_syntax import ToolSyntax
from tests import tool_templates as templates


@pytest.mark.parametrize(
    ("source", "syntax"),
    [
        (templates.QWEN, ToolSyntax.HERMES),
        (templates.HERMES, ToolSyntax.HERMES),
        (templates.LLAMA, ToolSyntax.LLAMA),
        (templates.NEMO, ToolSyntax.MISTRAL_LIST),
        (templates.NAMED, ToolSyntax.MISTRAL_NAMED),
        (templates.PLAIN, None),
        (templates.NO_SYSTEM, None),
        (templates.XML, None),
        ("{{ tools | tojson }}{{ raise_exception('never') }}", None),
        ("<tool_call>{{ messages | tojson }}", None),  # calls without any word of tools
    ],
)
def test_a_template_shows_how_its_model_writes_calls(source: str, syntax: ToolSyntax | None) -> None:
    assert ChatTemplate(source, templates.TOKENS).tool_syntax is syntax


@pytest.mark.parametrize("text", ["<tool_call>", "[TOOL_CALLS]", "<|python_tag|>"])
def test_a_marker_alone_is_no_syntax(text: str) -> None:
    source = "{{ tools | tojson }}{% for message in messages %}{{ message.content }}{% endfor %}" + text
    assert ChatTemplate(source, {}).tool_syntax is None


def test_a_template_may_have_no_room_for_a_system_message() -> None:
    assert ChatTemplate(templates.PLAIN, {}).knows_system_role
    assert not ChatTemplate(templates.NO_SYSTEM, {}).knows_system_role
    dropped = "{% for message in messages if message.role != 'system' %}{{ message.content }}{% endfor %}"
    assert not ChatTemplate(dropped, {}).knows_system_role
