"""The real engine behind the stacks: what it says is the same, to a loop and to threads."""

from __future__ import annotations

from pathlib import Path

from bench.baselines.chat import CHAT_PATH
from bench.baselines.plan import Stack
from handler.engine.snapshot import Snapshot
from tests.bench.baselines.served import chat, events, serving

STACKS: tuple[Stack, ...] = ("pilotlight", "flask")


async def test_a_model_says_the_same_to_a_loop_and_to_threads(tiny_served: Snapshot, tmp_path: Path) -> None:
    texts = [await said(stack, tiny_served, tmp_path) for stack in STACKS]
    assert texts[0] == texts[1]
    assert all(texts[0])


async def said(stack: Stack, snapshot: Snapshot, home: Path) -> list[str]:
    """By the likeliest tokens, streamed and whole, and by a seed."""
    directory = home / stack
    directory.mkdir()
    greedy = chat(model=snapshot.name, max_tokens=12)
    seeded = chat(model=snapshot.name, max_tokens=12, temperature=1.5, top_p=0.9, seed=7, stop=["zz"])
    with serving(stack, directory, "none", snapshot.directory) as served:
        async with served.client() as client:
            stream = await events(client, greedy)
            answers = [(await client.post(CHAT_PATH, json=body)).json() for body in (greedy, seeded)]
            assert (await client.get("/database")).status_code == 503
    streamed = "".join(event["choices"][0]["delta"].get("content", "") for event in stream)
    whole, random = (answer["choices"][0]["message"]["content"] for answer in answers)
    assert streamed == whole
    return [whole, random]
