from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from handler.choice import Choice
from handler.engine.events import OnEvent, TokenEvent
from handler.engine.listeners import Handle
from handler.engine.sampling_params import SamplingParams
from handler.generation import Generation
from handler.metrics import Metrics
from handler.trace import RequestTrace
from tests.scripted import ends, likely, says
from tests.server import DEADLINE_S


class Engine:
    """Lets the test say what its sequences yield."""

    def __init__(self) -> None:
        self.sequences: list[OnEvent] = []

    def submit(self, prompt_tokens: list[int], params: SamplingParams, on_event: OnEvent) -> Handle:
        del prompt_tokens, params
        self.sequences.append(on_event)
        return Handle(len(self.sequences), lambda _: None)


class Reader:
    """What the loop that writes a stream does: it reads events, and is busy with them until `may_go_on`."""

    def __init__(self, generation: Generation, seen: list[tuple[str, str]]) -> None:
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._generation = generation
        self._seen = seen
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not self._generation.has_ended:
            for _, event in await self._generation.arrivals():
                await self.may_go_on.wait()
                self._seen.append(("read", event.text))


class Tape:
    """A consumer that writes down what it takes."""

    def __init__(self, seen: list[tuple[str, str]]) -> None:
        self.ready = True
        self._seen = seen

    def is_ready(self) -> bool:
        return self.ready

    def take(self, choice: Choice, event: TokenEvent) -> None:
        assert choice.text.endswith(event.text), "the choice has taken the event in"
        if event.text == "!":
            raise ValueError("cannot be written")
        self._seen.append(("taken", event.text))


@pytest.fixture
def seen() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def tape(seen: list[tuple[str, str]]) -> Tape:
    return Tape(seen)


async def begin(tape: Tape, n: int = 1) -> tuple[Generation, Callable[..., None]]:
    """A generation whose consumer is the tape, and what yields an event of its choice of that number."""
    trace = RequestTrace("r", "/v1/completions", cold_start=False)
    loop = asyncio.get_running_loop()
    generation = Generation([[1]], SamplingParams(max_tokens=9), n, trace, Metrics("tiny"), loop)
    engine = Engine()
    generation.submit(engine)
    generation.feed(tape)

    def say(event: TokenEvent, choice: int = 0) -> None:
        engine.sequences[choice](event)

    return generation, say


async def settle() -> None:
    """Let whoever was woken run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def finish(reader: Reader) -> None:
    async with asyncio.timeout(DEADLINE_S):
        await reader.task


async def test_what_is_between_the_first_and_the_last_event_wakes_nobody(
    tape: Tape, seen: list[tuple[str, str]]
) -> None:
    generation, say = await begin(tape)
    reader = Reader(generation, seen)
    await settle()
    say(says("a"))
    await settle()
    say(says("b", logprobs=(likely("b", -1.0),)))
    assert seen == [("read", "a"), ("taken", "b")]
    say(says("c", logprobs=(likely("c", -2.0),)))
    say(ends("d"))
    await finish(reader)
    assert seen == [("read", "a"), ("taken", "b"), ("taken", "c"), ("read", "d")]
    (choice,) = generation.choices
    assert (choice.text, choice.completion_tokens) == ("abcd", 4)
    assert [entry.logprob for entry in choice.take_logprobs() or ()] == [-1.0, -2.0]


async def test_each_choice_has_its_first_event_read(tape: Tape, seen: list[tuple[str, str]]) -> None:
    generation, say = await begin(tape, n=2)
    reader = Reader(generation, seen)
    await settle()
    say(says("a"))
    await settle()
    say(says("b"))
    say(says("x"), 1)
    await settle()
    say(says("y"), 1)
    assert seen == [("read", "a"), ("taken", "b"), ("read", "x"), ("taken", "y")]
    for choice in (0, 1):
        say(ends(), choice)
    await finish(reader)


async def test_nothing_overtakes_what_the_reader_is_still_busy_with(tape: Tape, seen: list[tuple[str, str]]) -> None:
    generation, say = await begin(tape)
    reader = Reader(generation, seen)
    await settle()
    reader.may_go_on.clear()
    for text in "abc":
        say(says(text))
        await settle()
    assert seen == []
    reader.may_go_on.set()
    await settle()
    say(says("d"))
    assert seen == [("read", "a"), ("read", "b"), ("read", "c"), ("taken", "d")]
    say(ends("e"))
    await finish(reader)


async def test_what_the_consumer_has_no_room_for_is_read(tape: Tape, seen: list[tuple[str, str]]) -> None:
    generation, say = await begin(tape)
    reader = Reader(generation, seen)
    await settle()
    say(says("a"))
    await settle()
    tape.ready = False
    say(says("b"))
    tape.ready = True
    say(says("c"))  # behind what has not been read yet
    await settle()
    say(says("d"))
    assert seen == [("read", "a"), ("read", "b"), ("read", "c"), ("taken", "d")]
    say(ends("e"))
    await finish(reader)


async def test_a_consumer_that_fails_fails_its_own_request_alone(tape: Tape, seen: list[tuple[str, str]]) -> None:
    generation, say = await begin(tape)
    reader = Reader(generation, seen)
    await settle()
    say(says("a"))
    await settle()
    say(says("!"))  # does not raise here, in the delivery of a step that others share
    with pytest.raises(ValueError, match="cannot be written"):
        await finish(reader)
