"""An engine that boots as the real one does and then follows a script, so that every byte of an answer is known."""

from __future__ import annotations

import asyncio
from typing import Any

from handler.engine.engine import Engine
from handler.engine.events import FinishReason, OnEvent, TokenEvent, TokenLogprob
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.errors import EngineError

Script = list[tuple[int, TokenEvent]]
"""Events in order, each with the number of its sequence among those of the request."""

_TURNS = 5
"""Turns of the event loop between two events: enough for whoever was woken by the first to wait again."""


def scripted(script: Script) -> type[Engine]:
    """The type of an engine for one request. Its events come when all sequences of the script are there, one by one."""
    num_sequences = 1 + max(number for number, _ in script)

    class ScriptedEngine(Engine):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.submitted: list[tuple[list[int], SamplingParams]] = []
            self._on_events: list[OnEvent] = []

        def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
            self.submitted.append((prompt_tokens, params))
            self._on_events.append(on_event)
            if len(self._on_events) == num_sequences:
                self._playing = asyncio.create_task(self._play())
            return Handle(len(self._on_events), lambda _: None)

        async def _play(self) -> None:
            for number, event in script:
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
                self._on_events[number](event)

    return ScriptedEngine


def says(text: str, **fields: Any) -> TokenEvent:
    """A token for each byte; without text, one token whose text is not certain yet."""
    return TokenEvent(text=text, token_ids=tuple(text.encode()) or (0,), **fields)


def ends(text: str = "", reason: FinishReason = FinishReason.LENGTH, **fields: Any) -> TokenEvent:
    """The last event of a sequence."""
    return says(text, finish_reason=reason, **fields)


def fails(message: str = "the device is gone") -> TokenEvent:
    """The last event of a sequence that the engine lost."""
    return TokenEvent(finish_reason=FinishReason.ERROR, error=EngineError(message))


def likely(text: str, logprob: float, *others: tuple[str, float]) -> TokenLogprob:
    """One byte's log probability, and those of others in its place."""
    return TokenLogprob(ord(text), logprob, tuple((ord(other), value) for other, value in others))
