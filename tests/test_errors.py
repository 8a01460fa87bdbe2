from __future__ import annotations

import re
from collections.abc import Iterator

from handler import errors
from handler.errors import PilotlightError, RequestError, UnavailableError


def subclasses(base: type[PilotlightError]) -> Iterator[type[PilotlightError]]:
    for child in base.__subclasses__():
        yield child
        yield from subclasses(child)


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    assert errors.__doc__ is not None
    drawn: dict[str, str] = {}
    path = ["PilotlightError"]
    for line in errors.__doc__.splitlines():
        match = re.match(r"((?:│   |    )*)[├└]── (\w+)", line)
        if match is not None:
            depth = len(match[1]) // 4
            path[depth + 1 :] = [match[2]]
            drawn[match[2]] = path[depth]
    actual = {child.__name__: child.__base__.__name__ for child in subclasses(PilotlightError) if child.__base__}
    assert drawn == actual


def test_codes_tell_errors_of_one_status_apart() -> None:
    codes = [
        kind.code
        for kind in subclasses(PilotlightError)
        if issubclass(kind, RequestError | UnavailableError) and kind.code is not None
    ]
    assert len(codes) == len(set(codes))
    assert all(re.fullmatch("[a-z_]+", code) for code in codes)


def test_a_configuration_error_names_its_key() -> None:
    error = errors.ConfigurationError("PORT", "must be a number")
    assert (error.key, str(error)) == ("PORT", "PORT: must be a number")


def test_an_unsupported_model_is_told_what_is_supported() -> None:
    error = errors.UnsupportedModelError("architecture", "Bert", ["Qwen2", "Llama"])
    assert str(error) == "unsupported architecture 'Bert'; known: Llama, Qwen2"
