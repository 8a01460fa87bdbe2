"""Clients that leave at random moments, each in its own way."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from tests.slow_client import SlowClient

CONCURRENCY = 24
_LONGEST_STAY_S = 0.05
_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/invocations", "/tokenize")


def random_request(numbers: random.Random) -> tuple[str, dict[str, Any]]:
    """A path, and a body that it takes."""
    path = numbers.choice(_PATHS)
    text = "Once upon a time " * numbers.choice([1, 1, 1, 30])
    if path == "/tokenize":
        return path, {"prompt": text}
    max_tokens, is_streamed, n = numbers.choice([5, 50, 300]), numbers.random() < 0.5, numbers.randint(1, 3)
    fields = {"model": "llama", "stream": is_streamed}
    if path == "/v1/responses":
        return path, fields | {"input": text, "max_output_tokens": max_tokens}
    fields |= {"max_tokens": max_tokens, "n": n, "ignore_eos": True}
    message = {"role": "user", "content": text}
    if path == "/v1/chat/completions":
        many = {"logprobs": True, "top_logprobs": 20} if numbers.random() < 0.2 else {}
        return path, fields | {"messages": [message]} | many
    if path == "/invocations" and numbers.random() < 0.5:
        del fields["stream"]
        return path, {"instances": [{"prompt": text}, {"messages": [message]}], "parameters": fields}
    return path, fields | {"prompt": text}


async def leave_once(address: str, seed: int) -> None:
    """Connect, get as far as chance will have it, and leave."""
    numbers = random.Random(seed)
    client = await SlowClient.connect(address)
    try:
        await _act(client, numbers, f"storm-{seed}")
    except ConnectionError:  # the server was faster
        pass
    finally:
        client.leave(rudely=numbers.random() < 0.5)


async def _act(client: SlowClient, numbers: random.Random, request_id: str) -> None:
    path, body = random_request(numbers)
    how_far = numbers.choice(["nothing", "head", "body", "all", "all", "all", "all", "again", "many", "many"])
    if how_far == "head":
        await client.send(f"POST {path} HTTP/1.1\r\nhost: x\r\nx-re".encode())
    elif how_far == "body":
        await client.begin(path, request_id, 100)
    elif how_far != "nothing":
        if how_far == "again":
            await client.ask("/tokenize", f"{request_id}-before", {"prompt": "a"})
            await client.receive(4096)
        for number in range(numbers.randint(2, 4) if how_far == "many" else 1):
            await client.ask(path, f"{request_id}-{number}", body)
    if numbers.random() < 0.2:
        client.say_no_more()
    if numbers.random() < 0.5:
        await _read(client, numbers.randint(1, 5))
    if numbers.random() < 0.5:
        await asyncio.sleep(numbers.random() * _LONGEST_STAY_S)


async def _read(client: SlowClient, number: int) -> None:
    """Some parts of what comes, if it comes soon."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LONGEST_STAY_S):
            for _ in range(number):
                await client.receive(4096)


async def storm(address: str, first_seed: int, number: int) -> None:
    """So many clients, some at a time."""
    seeds = iter(range(first_seed, first_seed + number))

    async def some() -> None:
        for seed in seeds:
            await leave_once(address, seed)

    await asyncio.gather(*(some() for _ in range(CONCURRENCY)))
