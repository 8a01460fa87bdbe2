"""The chat endpoint's insides with a stub engine in this process, for what a socket does not show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.baselines.backend import engine_of, settings_of
from bench.baselines.chat import Chat, Job
from bench.baselines.plan import StackSpec
from bench.baselines.schema import ChatRequest
from bench.stub_engine import StubEngine
from handler.boot import BootTimeline
from handler.engine.events import OnEvent, failure_event
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.errors import EngineError
from handler.settings import Settings
from handler.trace import RequestTrace
from tests.bench.baselines.served import chat

LONG = 60_000
"""Tokens: a minute of the stub engine."""


class Broken(StubEngine):
    """Fails whatever it is given."""

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        handle = super().submit(prompt_tokens, params, lambda _: None)
        on_event(failure_event(EngineError("the device is gone")))
        return handle


def spec_of(directory: Path) -> StackSpec:
    """As the server would get it; nothing listens on the port."""
    return StackSpec(
        stack="flask",
        port=1,
        core=None,
        engine="stub",
        snapshot=None,
        database="none",
        directory=str(directory),
        step_s=0.001,
        threads=1,
    )


class Kept:
    """A `Chat` over an engine, with the records that it would have kept."""

    def __init__(self, directory: Path, *, is_broken: bool = False) -> None:
        spec = spec_of(directory)
        self.settings: Settings = settings_of(spec)
        engine = engine_of(spec, self.settings, BootTimeline())
        assert isinstance(engine, StubEngine)
        self.engine = Broken(engine.snapshot, engine.model) if is_broken else engine
        self.records: list[RequestTrace] = []
        self.chat = Chat(self.settings, self.engine, self.records.append)

    def job(self, **fields: Any) -> Job:
        """A request that has been checked."""
        return self.chat.prepare(self.chat.begin(None), ChatRequest.model_validate(chat(**fields)))
