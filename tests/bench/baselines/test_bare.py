from __future__ import annotations

from pathlib import Path

from bench.baselines.chat import CHAT_PATH
from tests.bench.baselines.served import Served, chat, serving

PAGES = ("/json", "/database", "/template")


async def test_the_floor_sends_as_many_bytes_as_the_function(ours: Served, tmp_path: Path) -> None:
    with serving("bare", tmp_path, "none") as served:
        async with served.client() as floor, ours.client() as own:
            for path in PAGES:
                pair = [await client.get(path) for client in (floor, own)]
                assert pair[0].headers["content-type"] == pair[1].headers["content-type"]
                assert abs(len(pair[0].content) - len(pair[1].content)) <= 8
            whole = [await client.post(CHAT_PATH, json=chat(max_tokens=1)) for client in (floor, own)]
            assert list(whole[0].json()) == list(whole[1].json())
            assert abs(len(whole[0].content) - len(whole[1].content)) <= 8
