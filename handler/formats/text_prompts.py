"""The prompts of a text completion: a text, tokens, or a list of either. Runs in the thread pool."""

from __future__ import annotations

import msgspec

from handler.engine.loaded import LoadedModel
from handler.errors import InvalidRequestError
from handler.formats.format import Echo
from handler.schema.text import CompletionRequest


class Prompt(msgspec.Struct, frozen=True):
    """One prompt: the path of its field, its tokens, and its text where the answer repeats it."""

    param: str
    tokens: list[int]
    echo: Echo | None


def count_prompts(request: CompletionRequest) -> int:
    """How many there are, without tokenizing: a list of token ids is one, a list of anything else is many."""
    prompt = request.prompt
    return 1 if isinstance(prompt, str) or isinstance(prompt[0], int) else len(prompt)


def count_given_tokens(request: CompletionRequest) -> int | None:
    """How many tokens all prompts have that came as tokens; None where any is a text."""
    prompt = request.prompt
    if isinstance(prompt, str) or isinstance(prompt[0], str):
        return None
    return sum(len(item) if isinstance(item, list) else 1 for item in prompt)


def read_prompts(request: CompletionRequest, model: LoadedModel) -> list[Prompt]:
    """Each prompt. Texts get the special tokens that the tokenizer adds; tokens are taken as they are.

    Raises:
        InvalidRequestError: a list of unlike items.
        ContextLengthError: a text that is too long however it is tokenized.
    """
    prompt = request.prompt
    reader = _Reader(model, request)
    if isinstance(prompt, str):
        return [reader.read("prompt", prompt)]
    kind = type(prompt[0])
    for index, item in enumerate(prompt):
        if type(item) is not kind:
            raise InvalidRequestError(
                f"prompt[{index}]: a list of prompts must hold one kind of item", f"prompt[{index}]"
            )
    if kind is int:
        return [reader.read("prompt", [item for item in prompt if isinstance(item, int)])]
    return [reader.read(f"prompt[{index}]", item) for index, item in enumerate(prompt) if isinstance(item, str | list)]


class _Reader:
    """Reads single prompts as a request wants them read."""

    def __init__(self, model: LoadedModel, request: CompletionRequest) -> None:
        self._model = model
        self._tokenizer = model.tokenizer
        self._add_special_tokens = request.add_special_tokens is not False
        self._echo = bool(request.echo)

    def read(self, param: str, item: str | list[int]) -> Prompt:
        if isinstance(item, list):
            return Prompt(param, item, Echo(*self._tokenizer.decode_located(item)) if self._echo else None)
        self._model.check_length(item, param)
        if not self._echo:
            return Prompt(param, self._tokenizer.encode(item, add_special_tokens=self._add_special_tokens), None)
        tokens, starts = self._tokenizer.encode_located(item, add_special_tokens=self._add_special_tokens)
        return Prompt(param, tokens, Echo(item, starts))
