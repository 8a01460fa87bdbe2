from __future__ import annotations

from typing import Any

import pytest
from tokenizers import processors

from bench.stub_model import stub_snapshot, tokenizing_model
from handler.engine.loaded import LoadedModel
from handler.engine.snapshot import Snapshot
from handler.errors import InvalidRequestError
from handler.formats.format import Echo
from handler.formats.text_prompts import Prompt, count_prompts, read_prompts
from handler.schema.text import CompletionRequest
from tests.tiny_models import byte_tokenizer

START = 257


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Its tokenizer puts <|start|> before every text."""
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", START)]
    )
    directory = tmp_path_factory.mktemp("start")
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizing_model(Snapshot(directory, "m", stub_snapshot().manifest))


def request(prompt: Any, **fields: Any) -> CompletionRequest:
    return CompletionRequest(model="m", prompt=prompt, **fields)


@pytest.mark.parametrize(
    ("prompt", "params", "tokens"),
    [
        ("ab", ["prompt"], [[START, 97, 98]]),
        ([97, 98], ["prompt"], [[97, 98]]),
        (["ab", "c"], ["prompt[0]", "prompt[1]"], [[START, 97, 98], [START, 99]]),
        ([[97, 98], [99]], ["prompt[0]", "prompt[1]"], [[97, 98], [99]]),
    ],
)
def test_every_form_of_prompt(model: LoadedModel, prompt: Any, params: list[str], tokens: list[list[int]]) -> None:
    prompts = read_prompts(request(prompt), model)
    assert prompts == [Prompt(param, ids, None) for param, ids in zip(params, tokens, strict=True)]
    assert count_prompts(request(prompt)) == len(prompts)


def test_a_text_may_be_its_own_tokens_only(model: LoadedModel) -> None:
    for echo in (False, True):
        [prompt] = read_prompts(request("ab", add_special_tokens=False, echo=echo), model)
        assert prompt.tokens == [97, 98]
        [prompt] = read_prompts(request("ab", add_special_tokens=True, echo=echo), model)
        assert prompt.tokens == [START, 97, 98]


def test_an_echo_is_what_was_sent(model: LoadedModel) -> None:
    [text, other] = read_prompts(request(["a<|end|>b", "c"], echo=True), model)
    assert (text.tokens, text.echo) == ([START, 97, 258, 98], Echo("a<|end|>b", [0, 0, 1, 8]))
    assert other.echo == Echo("c", [0, 0])
    [tokens] = read_prompts(request([START, 97, 258], echo=True), model)
    assert tokens.echo == Echo("<|start|>a<|end|>", [0, 9, 10])


@pytest.mark.parametrize("prompt", [["a", [1]], [1, "a"], [[1], 2]])
def test_a_list_of_unlike_items_is_refused(model: LoadedModel, prompt: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        read_prompts(request(prompt), model)
    assert caught.value.param == "prompt[1]"
