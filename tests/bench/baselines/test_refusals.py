from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bench.baselines.refusals import refusal
from bench.baselines.schema import ChatRequest

GOOD: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "hi"}]}


def refused(**fields: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate(GOOD | fields)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_k": "3"}, "top_k"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "text": "x"}]}]},
         "messages[0].content[0].type"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"stop": 3}, "stop"),
    ],
)  # fmt: skip
def test_the_field_is_named_as_openai_writes_it(fields: dict[str, Any], param: str) -> None:
    error = refusal(refused(**fields).errors())
    assert error.param == param
    assert str(error).startswith(f"{param}: ")


def test_what_stands_before_the_body_is_no_part_of_the_path() -> None:
    complaint = {"type": "missing", "loc": ("body", "model"), "msg": "Field required"}
    assert refusal([complaint], skipped=1).param == "model"


def test_a_body_that_is_no_object_has_no_field_at_fault() -> None:
    with pytest.raises(ValidationError) as caught:
        ChatRequest.model_validate_json("[1]")
    assert refusal(caught.value.errors()).param is None
