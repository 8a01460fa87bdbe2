"""Each field that says what a text must look like, against the real server."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from tests.server import DEADLINE_S, ServerProcess

SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}
FORMS = [
    ("guided_json", "json", SCHEMA, lambda text: set(json.loads(text)) == {"n"}),
    ("guided_regex", "regex", "[0-9]{3}-[a-z]{2}", re.compile("[0-9]{3}-[a-z]{2}").fullmatch),
    ("guided_choice", "choice", ["north", "south"], {"north", "south"}.__contains__),
    ("guided_grammar", "grammar", 'start: "yes" | "no"', {"yes", "no"}.__contains__),
    (None, "json_object", True, lambda text: text.lstrip().startswith("{")),  # it may go on for long
]


PROMPTS: dict[str, dict[str, Any]] = {
    "completions": {"prompt": "Go", "max_tokens": 24},
    "chat/completions": {"messages": [{"role": "user", "content": "Go on."}], "max_tokens": 24},
    "responses": {"input": "Go on.", "max_output_tokens": 24},
}


def text_and_end(path: str, answer: dict[str, Any]) -> tuple[str, str]:
    """What was said, and why it ended."""
    if path == "responses":
        return answer["output"][0]["content"][0]["text"], answer["status"]
    (choice,) = answer["choices"]
    return choice["text"] if path == "completions" else choice["message"]["content"], choice["finish_reason"]


@pytest.mark.parametrize(("old", "new", "value", "holds"), FORMS)
@pytest.mark.parametrize("path", PROMPTS)
def test_a_form_is_kept(server: ServerProcess, path: str, old: str | None, new: str, value: Any, holds: Any) -> None:
    asking = PROMPTS[path] | {"model": "smollm2-135m", "temperature": 0}
    for field in [{"structured_outputs": {new: value}}, *([{old: value}] if old else [])]:
        response = httpx.post(f"{server.address}/v1/{path}", json=asking | field, timeout=DEADLINE_S)
        assert response.status_code == 200, response.text
        text, end = text_and_end(path, response.json())
        assert end in {"stop", "completed"} or new == "json_object"
        assert holds(text), (field, text)
