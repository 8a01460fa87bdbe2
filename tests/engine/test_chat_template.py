"""What transformers renders, we render; the templates are of the kinds that models bring."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

from handler.engine.chat_template import ChatTemplate, read_chat_template
from handler.engine.snapshot import Snapshot
from handler.errors import CorruptSnapshotError, InvalidRequestError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHAT = [
    {"role": "system", "content": "  You answer <briefly> & well.  "},
    {"role": "user", "content": 'Hi! {{ 7 * 7 }} "ü" 👋\n'},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Bye"},
]

LLAMA3 = """
{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}{%- set tools_in_user_message = true %}{%- endif %}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system_message = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- '{"name": "' + message.tool_calls[0].function.name + '", ' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

MISTRAL = """
{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{ bos_token }}
{%- for message in loop_messages %}
    {%- if (message["role"] == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.first and system_message is defined %}
            {{- " [INST] " + system_message + "\\n\\n" + message["content"] + " [/INST]" }}
        {%- else %}
            {{- " [INST] " + message["content"] + " [/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}
"""

QWEN = """
{%- if tools %}{{- '# Tools' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
        {%- break %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "tool" %}{%- continue %}{%- endif %}
    {%- if message.content is string %}{%- set content = message.content %}
    {%- else %}{%- set content = '' %}{%- endif %}
    {%- if '</think>' in content %}{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}
    {{- '<|im_start|>' + message.role + ('!' if loop.index0 == ns.last_query_index else '') + '\\n' + content }}
    {{- '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""

TEMPLATES = {
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "qwen": QWEN,
    "generation": (
        "{% for m in messages %}\n    {% if m.role == 'assistant' %}\n{% generation %}{{ m.content }}{{ eos_token }}\n"
        "{% endgeneration %}\n    {% else %}\n{{ m.content }}\n{% endif %}\n{% endfor %}"
    ),
    "generation scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "tojson": "{{ messages | tojson }}{{ messages | tojson(indent=2) }}",
    "tojson options": (
        "{{ messages[0] | tojson(ensure_ascii=true) }}{{ messages[0] | tojson(separators=(',', ':'), sort_keys=true) }}"
    ),
    "tojson by position": "{{ messages[0] | tojson(true, 1) }}",
    "tools are none": "{% if tools is none %}none{% endif %}{% if documents is not none %}some{% endif %}",
    "missing tokens": "[{{ pad_token }}]{{ unk_token is defined }}",
    "dates": "{{ strftime_now('%Y-%m') }}",
    "blanks": "  {% if true %}\n  a  \n  {% endif %}\n\n  {{- ' b ' -}}  \n",
    "last newline": "{{ messages[0].content }}\n",
}


def expected(source: str, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> str:
    rendered, _ = render_jinja_template(
        [messages], chat_template=source, add_generation_prompt=add_generation_prompt, **TOKENS
    )
    text: str = rendered[0]
    return text


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_in_transformers(name: str, add_generation_prompt: bool) -> None:
    template = ChatTemplate(TEMPLATES[name], TOKENS)
    for messages in (CHAT, CHAT[1:], CHAT[1:2]):
        rendered = template.render(messages, add_generation_prompt=add_generation_prompt)
        assert rendered == expected(TEMPLATES[name], messages, add_generation_prompt=add_generation_prompt)
        assert rendered


def test_the_embedded_model_is_asked_as_transformers_asks_it(embedded_snapshot: Snapshot) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(embedded_snapshot.directory, local_files_only=True)
    template = read_chat_template(embedded_snapshot.directory)
    assert template is not None
    for messages in (CHAT, CHAT[1:], CHAT[:2], [{"role": "user", "content": ""}]):
        for add_generation_prompt in (True, False):
            assert template.render(
                messages, add_generation_prompt=add_generation_prompt
            ) == tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)


def test_the_date_is_todays() -> None:
    rendered = ChatTemplate("{{ strftime_now('%Y') }}", {}).render([])
    assert int(rendered) in {dt.datetime.now().astimezone().year, dt.datetime.now().astimezone().year + 1}


def test_what_the_template_refuses_is_the_clients_error() -> None:
    template = ChatTemplate(MISTRAL, TOKENS)
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        template.render([CHAT[2]])
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content.missing.deeper }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{{ messages.missing() }}",
        "{{ range(10 ** 6) | list }}",
        "{{ messages[0].content.encode('nothing') }}",
        "{{ messages[0].content.index('not there') }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ undefined_function(1) }}",
        "{{ messages | tojson(indent='x', separators=3) }}",
    ],
)
def test_whatever_goes_wrong_in_a_template_names_the_messages(source: str) -> None:
    with pytest.raises(InvalidRequestError, match="chat template refuses these messages") as caught:
        ChatTemplate(source, {}).render(CHAT)
    assert caught.value.param == "messages"


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__code__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages[0].clear() }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ messages | map(attribute='__class__') | list }}{{ cycler.__init__.__globals__.os }}",
        "{{ self.__init__.__globals__ }}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    messages = [dict(message) for message in CHAT]
    try:
        rendered = ChatTemplate(source, {}).render(messages)
    except InvalidRequestError:
        rendered = ""
    assert "class" not in rendered
    assert "<module" not in rendered
    assert messages == CHAT


def test_a_template_that_is_none_is_a_corrupt_snapshot() -> None:
    for source in ("{% if %}", "{{ 'open", "{% for x in y %}", "{{ x | nothing_like_that }}", "{% unknown %}"):
        with pytest.raises(CorruptSnapshotError, match="chat template"):
            ChatTemplate(source, {})


def test_special_tokens_come_from_the_tokenizers_configuration(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}ü")
    configuration = {"bos_token": {"content": "<b>", "lstrip": False}, "eos_token": "<e>", "pad_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(configuration))
    template = read_chat_template(tmp_path)
    assert template is not None
    assert template.render([]) == "<b><e>Falseü"


def test_a_model_may_have_no_template_and_no_special_tokens(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}x")
    template = read_chat_template(tmp_path)
    assert template is not None
    assert template.render([]) == "x"


def test_a_damaged_tokenizer_configuration_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("x")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CorruptSnapshotError, match=r"tokenizer_config\.json"):
        read_chat_template(tmp_path)


def test_messages_are_not_changed_and_not_interpreted() -> None:
    messages = [{"role": "user", "content": "{{ bos_token }}{% raw %}"}]
    assert ChatTemplate("{{ messages[0].content }}", TOKENS).render(messages) == "{{ bos_token }}{% raw %}"
    assert messages == [{"role": "user", "content": "{{ bos_token }}{% raw %}"}]
