from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from handler.outbox import GatheringTransport, Outbox


class Wire(asyncio.Transport):
    """Remembers what happens to it, in a list that may be several transports'."""

    def __init__(self, events: list[object]) -> None:
        super().__init__({"peername": ("there", 1)})
        self.events = events
        self.is_gone = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_gone, "uvloop's transports raise here"
        self.events.append(bytes(data))

    def close(self) -> None:
        self.is_gone = True
        self.events.append("close")

    def is_closing(self) -> bool:
        return self.is_gone


@pytest.fixture
def events() -> list[object]:
    return []


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def connect(events: list[object], outbox: Outbox) -> Callable[[], tuple[Wire, GatheringTransport]]:
    def make() -> tuple[Wire, GatheringTransport]:
        wire = Wire(events)
        return wire, GatheringTransport(wire, outbox)

    return make


Connect = Callable[[], tuple[Wire, GatheringTransport]]


async def test_what_is_written_in_one_turn_leaves_together_when_it_ends(connect: Connect, events: list[object]) -> None:
    (_, one), (_, two) = connect(), connect()
    one.write(b"head ")
    two.write(b"other")
    one.write(b"body")
    assert events == []
    await asyncio.sleep(0)
    assert events == [b"head body", b"other"]
    await asyncio.sleep(0)
    one.write(b"next")
    await asyncio.sleep(0)
    assert events[2:] == [b"next"]


async def test_actions_come_before_all_bytes_of_their_turn(
    connect: Connect, events: list[object], outbox: Outbox
) -> None:
    _, transport = connect()
    transport.write(b"early")
    outbox.before_write(lambda: events.append("kept"))
    outbox.before_write(lambda: events.append("kept too"))
    transport.write(b" late")
    await asyncio.sleep(0)
    assert events == ["kept", "kept too", b"early late"]
    transport.write(b"alone")
    await asyncio.sleep(0)
    assert events[3:] == [b"alone"]  # each action once


async def test_an_action_needs_no_bytes(events: list[object], outbox: Outbox) -> None:
    outbox.before_write(lambda: events.append("kept"))
    await asyncio.sleep(0)
    assert events == ["kept"]


async def test_a_defect_of_one_harms_no_other(connect: Connect, events: list[object], outbox: Outbox) -> None:
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(str(context["exception"])))

    def fail(_: object = None) -> None:
        raise ValueError("a defect")

    (broken, one), (_, two) = connect(), connect()
    broken.write = fail  # type: ignore[method-assign]
    one.write(b"lost")
    two.write(b"answer")
    outbox.before_write(fail)
    outbox.before_write(lambda: events.append("kept"))
    await asyncio.sleep(0)
    assert events == ["kept", b"answer"]
    assert failures == ["a defect", "a defect"]
    two.write(b"next")
    await asyncio.sleep(0)
    assert events[2:] == [b"next"]


async def test_much_does_not_wait_nor_overtake(connect: Connect, events: list[object], outbox: Outbox) -> None:
    _, transport = connect()
    outbox.before_write(lambda: events.append("kept"))
    transport.write(b"head")
    transport.write(bytes(70_000))
    assert events == ["kept", b"head" + bytes(70_000)]
    transport.write(b"tail")
    await asyncio.sleep(0)
    assert events[2:] == [b"tail"]


async def test_a_connection_closes_behind_what_waits(connect: Connect, events: list[object]) -> None:
    _, transport = connect()
    transport.write(b"last words")
    transport.close()
    assert transport.is_closing()
    assert events == []
    await asyncio.sleep(0)
    assert events == [b"last words", "close"]
    _, idle = connect()
    idle.close()
    assert events[2:] == ["close"]


async def test_a_connection_that_was_lost_meanwhile_takes_nothing(connect: Connect, events: list[object]) -> None:
    (wire, gone), (_, there) = connect(), connect()
    gone.write(b"too late")
    there.write(b"in time")
    wire.is_gone = True
    await asyncio.sleep(0)
    assert events == [b"in time"]
    assert gone.is_closing()


async def test_reading_is_the_transports_own(connect: Connect) -> None:
    _, transport = connect()
    assert transport.get_extra_info("peername") == ("there", 1)
