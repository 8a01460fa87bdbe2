"""`str.format` and `%` as templates may use them: each field is looked at before it is written. Any thread."""

from __future__ import annotations

import string
from typing import Any

import jinja2.sandbox
from markupsafe import Markup

from handler.engine.template_bounds import believed, bounded_text, check_widths


def formatter_of(environment: jinja2.sandbox.SandboxedEnvironment, text: str) -> string.Formatter:
    """What formats this text, and escapes what it fills in where the text is markup."""
    if isinstance(text, Markup):
        return _EscapingFormatter(environment, escape=text.escape)
    return _Formatter(environment)


class _BoundedFormatter(string.Formatter):
    """Looks at each field before it is written, and at what all come to."""

    _size = 0

    def convert_field(self, value: Any, conversion: Any) -> Any:
        bounded_text(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        bounded_text(value)
        check_widths(format_spec)
        field = super().format_field(value, format_spec)
        self._size += len(field)
        believed(self._size)
        return field


class _Formatter(_BoundedFormatter, jinja2.sandbox.SandboxedFormatter):
    """For plain text."""


class _EscapingFormatter(_BoundedFormatter, jinja2.sandbox.SandboxedEscapeFormatter):
    """For markup."""
