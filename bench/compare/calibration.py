"""Finds how the embedded model is to be asked: machines differ by a hundred times in what they generate.

The rates are shares of what our own server sustains with a few users, and a load lasts for some chats at least. Both
are the same for all stacks.
"""

from __future__ import annotations

import msgspec

from bench.arrivals import Closed
from bench.compare.goals import OURS
from bench.compare.open import streamed_chats
from bench.compare.plan import Plan, StreamLoad, has_part
from bench.compare.raw import RawFiles
from bench.compare.server import running_server
from bench.distribution import at
from bench.errors import BenchError
from handler.engine.snapshot import Snapshot

_CHATS = 3
"""That one user could have after each other in a load, at least."""
_MOST_CHAT_S = 10.0
"""Beyond it there would be too few of them in any time that is worth while."""
_PATIENCE = 5
"""Times as long as a chat takes with few users, it may take with many."""


def with_model_rates(plan: Plan, snapshot: Snapshot) -> Plan:
    """The plan with the rates of the model's open loops, to two digits, and loads that are long enough.

    Raises:
        BenchError: the server did not start, or the model is too slow on this machine.
    """
    sizes = msgspec.structs.replace(plan.model_loops, warm_up_s=0.0, timeout_s=_PATIENCE * _MOST_CHAT_S)
    assert sizes.users is not None
    able = [stack for stack in plan.stacks if has_part(stack, "model")]
    with running_server(
        OURS if OURS in able else able[0],
        "model",
        core=plan.server_core,
        database="none",
        step_s=0.0,
        threads=plan.threads,
        snapshot=str(snapshot.directory.absolute()),
        model=snapshot.name,
    ) as server:
        point = streamed_chats(server, "model", Closed(users=sizes.users), sizes, plan, RawFiles(None), "calibration")
    if not point.latency_ms:
        raise BenchError(f"the model gave {sizes.users} users no whole answer: {point.invalid or point.failures}")
    chat_s = at(point.latency_ms, 0.5) / 1e3
    if chat_s > _MOST_CHAT_S:
        raise BenchError(f"a chat of {sizes.tokens} tokens takes {chat_s:.1f} s here, more than {_MOST_CHAT_S:g} s")
    return msgspec.structs.replace(plan, model_loops=sized(plan.model_loops, sizes.users / chat_s, chat_s))


def sized(sizes: StreamLoad, chats_per_s: float, chat_s: float) -> StreamLoad:
    """The model's loads where its users have so many chats a second, each of which takes so long."""
    return msgspec.structs.replace(
        sizes,
        rates_per_s=tuple(float(f"{share * chats_per_s:.2g}") for share in sizes.rate_shares),
        seconds=max(sizes.seconds, _CHATS * chat_s),
        timeout_s=max(sizes.timeout_s, _PATIENCE * chat_s),
    )
