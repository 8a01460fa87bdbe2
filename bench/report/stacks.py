"""The servers as a report shows them: names, order, and a mark of each that needs no colour to be told."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

OURS = "pilotlight"


class Stack(msgspec.Struct, frozen=True):
    """One server.

    Attributes:
        name: as results call it.
        label: as a reader does.
        style: which colour, dash and marker the style sheet gives it.
    """

    name: str
    label: str
    style: str


_KNOWN = (
    Stack("pilotlight", "Pilotlight", "pilotlight"),
    Stack("fastapi", "FastAPI", "fastapi"),
    Stack("flask", "Flask", "flask"),
    Stack("django", "Django", "django"),
    Stack("django-asgi", "Django ASGI", "django-asgi"),
    Stack("bare", "Bare ASGI", "bare"),
)


def stack_of(name: str) -> Stack:
    """The server of that name; one that is not known is shown by its name, with a mark of its own."""
    return next((stack for stack in _KNOWN if stack.name == name), Stack(name, name, "other"))


def stacks_in(names: Iterable[str]) -> list[Stack]:
    """Those servers, ours first, the floor last, unknown ones after it."""
    order = {stack.name: number for number, stack in enumerate(_KNOWN)}
    return [stack_of(name) for name in sorted(set(names), key=lambda name: (order.get(name, len(order)), name))]
