"""A template cannot take for ever, nor all memory; and the bounds change nothing for others."""

from __future__ import annotations

import time

import jinja2.ext
import jinja2.sandbox
import pytest

from handler.engine.chat_template import ChatTemplate
from handler.engine.template_sandbox import BoundedEnvironment
from handler.errors import InvalidRequestError

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}"
DOUBLING = "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = SUM %}{% endfor %}{{ ns.s }}"

MAKING_MUCH = [
    "'{:>20000000}'.format(1)",
    "'{:{}}'.format(1, 20000000)",
    "('{0}' * 9).format('a' * 2000000)",
    "('{0.x}' * 9).format(namespace(x='a' * 2000000))",
    "('{}' | safe).format('a' * 16777216)",
    "'{x:>20000000}'.format_map({'x': 1})",
    "('%(x)s' * 9) % {'x': 'a' * 2000000}",
    "('%(x)s' * 9) | format(x='a' * 2000000)",
    "''.join((['a' * 2000000] * 9) | map('string'))",
    "([0] * 99) | tojson(separators=('a' * 2000000, ':'))",
    "([1] * 99) | map('center', 16000000) | list",
    "('&' * 4000000) | forceescape",
    "namespace(x=['a' * 2000000] * 9) | string",
]
"""What comes to more than `MAX_SIZE`, or to more than all turns, in one expression, though not to much more."""


@pytest.mark.parametrize(
    "source",
    [
        LOOPS + "{% endfor %}{% endfor %}",
        LOOPS + "{% if 0 %}{% endif %}{% endfor %}{% endfor %}",
        LOOPS.replace("range(99999)", "range(99999) | map('string')") + "{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}{% endfor %}",
        DOUBLING.replace("SUM", "ns.s + ns.s"),
        DOUBLING.replace("SUM", "ns.s ~ ns.s"),
        DOUBLING.replace("SUM", "ns.s * 2"),
        DOUBLING.replace("SUM", "[ns.s, ns.s] | join"),
        DOUBLING.replace("SUM", "[ns.s, ns.s] | join(ns.s)"),
        DOUBLING.replace("SUM", "ns.s.replace('a', 'aa')"),
        DOUBLING.replace("SUM", "ns.s.join([ns.s, ns.s])"),
        DOUBLING.replace("'aaaaaaaa'", "[1]").replace("SUM", "ns.s + ns.s"),
        "{% for i in range(99999) %}{{ 'a' * 1000 }}{% endfor %}",
        "{{ 'a' * 10 ** 9 }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 2 ** 1000000000 }}",
        "{{ 10 ** 999 * 10 ** 999 }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ '7'.zfill(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ 'a' | indent(1000000000, true) }}",
        "{{ ('\n' * 1000000) | indent(1000000, true, true) }}",
        "{{ ('a' * 4096) | replace('a', 'b' * 16000000) }}",
        "{{ '%1000000000d' | format(1) }}",
        "{{ '%*d' | format(1000000000, 1) }}",
        "{{ ([[0] * 1000000] * 1000) | sum(start=[]) | length }}",
        "{{ [1] | batch(1000000000, 'x') | list | length }}",
        "{{ [1] | slice(1000000000) | list | length }}",
        "{{ (['a' * 1000000] * 10000) | string | length }}",
        "{{ ([0] * 1000000) | tojson(indent=100000) | length }}",
        "{{ 1.5 | round(1000000000, 'ceil') }}",
        "{{ '\t'.expandtabs(tabsize=1000000000) }}",
        "{{ (1).to_bytes(1000000000, 'big') | length }}",
        DOUBLING.replace("SUM", "[ns.s, ns.s]"),
        *(f"{{{{ ({making}) | length }}}}" for making in MAKING_MUCH),
        "{% set x %}{% for i in range(99) %}{{ 'a' * 16000000 }}{% endfor %}{% endset %}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99) %}{% set ns.x = ns.x + ['a' * 16000000] %}{% endfor %}",
    ],
)
def test_what_is_without_bounds_is_refused(source: str) -> None:
    template = ChatTemplate(source, {})
    begin_s = time.process_time()
    with pytest.raises(InvalidRequestError):
        template.render([])
    assert time.process_time() - begin_s < 60  # seconds; without bounds it is hours


SAME = [
    "{{ [1, 2, 3] | batch(2) | list }}{{ [[1], [2]] | sum(start=[]) }}{{ 'aXa' | replace('a', 'bb') }}",
    "{{ 1.25 | round(1) }}{{ 'a\\nb' | indent(2, true) }}",
    "{{ '%03d %s' | format(7, 'a') }}{{ messages | string | length }}{{ [1, {'a': ['b']}] }}{{ nothing }}{{ none }}",
    "{{ ('x' * 4000000) | replace('y', 'a longer text') | length }}",
    "{{ ('x' * 4000000).replace('y', 'a longer text') | length }}",
    "{% for m in messages %}{{ loop.index ~ m.role + ':' + m.content }}{% if not loop.last %},{% endif %}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ loop.revindex }}{{ m.content }}{% endfor %}",
    "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ loop.last }}{{ m.content }}{% endfor %}",
    "{% for k, v in messages[0].items() %}{{ k ~ '=' ~ v ~ none ~ 1 }}{% endfor %}",
    "{% for x in [[1, [2]], [3]] recursive %}{{ loop(x) if x is iterable else x * 2 }}{% endfor %}",
    "{% for m in nothing %}{{ m }}{% else %}none{% endfor %}{{ '%03d' % 7 }}{{ 2 ** 8 }}{{ [1] + [2] }}{{ 3 % 2 }}",
    "{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f(1) ~ f('a') }}{{ messages | map(attribute='content') | join('; ') }}",
    "{{ 'ab'.replace('a', 'b') }}{{ 'x'.join(['1', '2']) }}{{ 'a' | center(5) }}{{ 'a\\nb' | indent(2) }}",
    "{{ '**{}** {:*>5} {x!r}'.format([1], 200000000, x='y') }}{{ '{0[0]:{1}}'.format([1], 3) }}{{ '<b>' | e }}",
    "{{ ('<{}>' | safe).format('&') }}{{ ('a' | e).format() }}{{ '%s 50%% %d' % ('a', 3) }}{{ namespace(a=1).a }}",
    "{{ messages | map('string') | map('length') | list }}{{ ','.join(messages | map(attribute='role')) }}",
    "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% if i == 3 %}{% break %}{% endif %}"
    "{% endfor %}{{ ns.n }}",
]


@pytest.mark.parametrize("source", SAME)
def test_the_bounds_change_nothing_else(source: str) -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "\u2028"},
    ]
    options = {"trim_blocks": True, "lstrip_blocks": True, "extensions": [jinja2.ext.loopcontrols]}
    theirs = jinja2.sandbox.ImmutableSandboxedEnvironment(**options).from_string(source).render(messages=messages)
    assert ChatTemplate(source, {}).render(messages) == theirs
    assert BoundedEnvironment(**options).from_string(source).render(messages=messages) == theirs
