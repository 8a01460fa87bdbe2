"""Chat templates that write tools as well-known models' own do, made for these tests.

For `CONVERSATION`, its parts and what may follow it, `QWEN`, `LLAMA` and `NEMO` render character by character what the
templates of Qwen2.5-7B-Instruct, Llama-3.1-8B-Instruct and Mistral-Nemo-Instruct-2407 render. `NAMED` writes calls as
Mistral's tokenizers do from v11 on, `HERMES` as Hermes-2-Pro's template for tools does.
"""

from __future__ import annotations

from typing import Any

QWEN = """\
{%- set first = messages[0] -%}
{%- set system = first.content if first.role == 'system' else 'You are Qwen, created by Alibaba Cloud. \
You are a helpful assistant.' -%}
<|im_start|>system
{{ system }}
{%- if tools %}


# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{%- for tool in tools %}

{{ tool | tojson }}
{%- endfor %}

</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>
{%- endif %}<|im_end|>
{% for message in (messages[1:] if first.role == 'system' else messages) %}
    {%- if message.role == 'tool' %}
        {%- if loop.previtem is not defined or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.nextitem is not defined or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- else %}
        {{- '<|im_start|>' + message.role }}
        {%- if message.content or not message.tool_calls %}{{ '\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls or [] %}
            {{- '\n<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- (call.function.arguments | tojson) + '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

LLAMA = """\
{%- macro part(role, content) %}{{ '<|start_header_id|>' + role + '<|end_header_id|>\n\n' + content + '<|eot_id|>' }}\
{%- endmacro -%}
{%- set environment = 'Environment: ipython\n' if tools else '' -%}
{%- set has_system = messages[0].role == 'system' -%}
{{ bos_token }}{{ part('system', environment + 'Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n'
    + (messages[0].content | trim if has_system else '')) }}
{%- set spoken = messages[1:] if has_system else messages -%}
{%- for message in spoken %}
    {%- if message.tool_calls is defined %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls at once') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- part('assistant', '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}') }}
    {%- elif message.role == 'tool' %}
        {{- part('ipython', message.content | tojson) }}
    {%- elif loop.first and tools %}
        {%- set described -%}
        {{ 'Given the following functions, please respond with a JSON for a function call with its proper arguments \
that best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": dictionary of \
argument name and its value}.Do not use variables.\n\n' }}
            {%- for tool in tools %}{{ (tool | tojson(indent=4)) + '\n\n' }}{% endfor %}
        {%- endset %}
        {{- part('user', described + message.content | trim) }}
    {%- else %}
        {{- part(message.role, message.content | trim) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
"""

_MISTRAL = """\
{%- set ns = namespace(system='', last=-1) -%}
{%- for message in messages %}
    {%- if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}
{%- endfor -%}
{{ bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = message.content + '\n\n' %}
    {%- elif message.role == 'user' %}
        {%- if tools and loop.index0 == ns.last %}
            {{- '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' + (ns.system if loop.last else '') + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined %}
        {{- CALLS }}
    {%- elif message.role == 'tool' %}
        {%- if message.tool_call_id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
        {{- '[TOOL_RESULTS]{"content": ' + message.content }}
        {{- ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""

NEMO = _MISTRAL.replace(
    "{{- CALLS }}",
    """{{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise_exception('ids have length 9') }}{% endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + ('' if loop.last else ', ') }}
        {%- endfor %}
        {{- ']' + eos_token }}""",
)

NAMED = _MISTRAL.replace(
    "{{- CALLS }}",
    """{%- for call in message.tool_calls %}
            {{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + (call.function.arguments | tojson) }}
        {%- endfor %}
        {{- eos_token }}""",
)

HERMES = """\
{%- if tools %}{{ '<tools>' + (tools | tojson) + '</tools>\n' }}{% endif %}
{%- for message in messages %}
    {%- if message.tool_calls is defined %}
        {%- for call in message.tool_calls %}
            {{- '<tool_call>\n{ "arguments": ' + (call.function.arguments | tojson) }}
            {{- ', "name": "' + call.function.name + '"}\n</tool_call> ' }}
        {%- endfor %}
    {%- elif message.role == 'tool' %}
        {%- if not message.name is defined %}{{ raise_exception('results need a name') }}{% endif %}
        {{- '<tool_response>\n{"name": "' + message.name + '", "content": ' }}
        {{- (message.content | tojson) + '}\n</tool_response>\n' }}
    {%- else %}
        {{- message.role + ': ' + message.content + '\n' }}
    {%- endif %}
{%- endfor %}
"""

PLAIN = """\
{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

NO_SYSTEM = """\
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('no system') }}{% endif %}
    {{- '<start_of_turn>' + message.role + '\n' + message.content + '<end_of_turn>\n' }}
{%- endfor %}
"""

XML = """\
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\n<function=' + call.function.name + '>\n</function>\n</tool_call>' }}
    {%- endfor %}
{%- endfor %}
"""

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"type": "string", "enum": ["c", "f"]}},
    "required": ["city", "unit"],
}

CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "How warm is it in Zürich?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "id": "a1B2c3D4e",
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": "Zürich", "unit": "c"}},
            }
        ],
    },
    {"role": "tool", "content": "18", "tool_call_id": "a1B2c3D4e", "name": "get_weather"},
]
"""As templates take it."""
