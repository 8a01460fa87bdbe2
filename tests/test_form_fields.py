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


@pytest.mark.parametrize(("old", "new", "value", "holds"), FORMS)
@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_a_form_is_kept(server: ServerProcess, path: str, old: str | None, new: str, value: Any, holds: Any) -> None:
    prompt: dict[str, Any] = {"messages": [{"role": "user", "content": "Go on."}]} if "/" in path else {"prompt": "Go"}
    asking = prompt | {"model": "smollm2-135m", "temperature": 0, "max_tokens": 24}
    for field in [{"structured_outputs": {new: value}}, *([{old: value}] if old else [])]:
        response = httpx.post(f"{server.address}/v1/{path}", json=asking | field, timeout=DEADLINE_S)
        assert response.status_code == 200, response.text
        (choice,) = response.json()["choices"]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        assert choice["finish_reason"] == "stop" or new == "json_object"
        assert holds(text), (field, text)
