from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server import DEADLINE_S, ServerProcess

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("add", "sub")]


def ask(server: ServerProcess, mode: str, name: str) -> httpx.Response:
    allowed = {"mode": mode, "tools": [{"type": "function", "function": {"name": name}}]}
    asking: dict[str, Any] = {
        "model": "smollm2-135m",
        "messages": [{"role": "user", "content": "What is 2 plus 3?"}],
        "tools": TOOLS,
        "tool_choice": {"type": "allowed_tools", "allowed_tools": allowed},
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_tokens": 32,
    }
    return httpx.post(f"{server.address}/v1/chat/completions", json=asking, timeout=DEADLINE_S)


@pytest.mark.parametrize("name", ["add", "sub"])
def test_only_an_allowed_tool_is_called(server: ServerProcess, name: str) -> None:
    (choice,) = ask(server, "required", name).json()["choices"]
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == [name]
    assert ask(server, "auto", name).status_code == 200


def test_an_allowed_tool_must_be_there(server: ServerProcess) -> None:
    error = ask(server, "auto", "mul").json()["error"]
    assert error["param"] == "tool_choice.allowed_tools.tools[0].function.name"
