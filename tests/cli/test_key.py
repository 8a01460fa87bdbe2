from __future__ import annotations

import json
from typing import Any

import pytest

from handler.__main__ import main
from handler.auth import Authenticator
from handler.settings import Settings


def made(capsys: pytest.CaptureFixture[str], name: str) -> dict[str, Any]:
    assert main(["key", name, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_the_key_is_known_to_who_has_the_entry(capsys: pytest.CaptureFixture[str]) -> None:
    answer = made(capsys, "alice")
    keys = Settings.from_env({"API_KEYS": answer["entry"]}).api_keys
    assert Authenticator(keys).identify(f"Bearer {answer['key']}") == "alice"
    assert answer["key"] not in answer["entry"]


def test_no_key_comes_twice(capsys: pytest.CaptureFixture[str]) -> None:
    keys = {made(capsys, "alice")["key"] for _ in range(50)}
    assert len(keys) == 50
    assert all(len(key) == 46 for key in keys)


def test_people_get_a_line_for_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "alice"]) == 0
    key, setting = capsys.readouterr().out.splitlines()
    name, _, value = setting.partition("=")
    assert name == "API_KEYS"
    assert Authenticator(Settings.from_env({name: value}).api_keys).identify(f"Bearer {key}") == "alice"


@pytest.mark.parametrize("name", ["a:b", "a,b", "", " ", "sha256"])
def test_a_name_that_settings_cannot_hold_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["key", name]) == 2
    assert capsys.readouterr().err.startswith("pilotlight: NAME: must")
