"""What a run of the comparison does, in two sizes, and how long that takes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from bench.baselines.plan import Stack

Part = Literal["chats", "closed", "streams", "open", "model"]
"""On the stub engine closed loops: of the chats that goals are set for, of other whole answers, and of streams; open
loops; both on the embedded model."""

STUB_PARTS: tuple[Part, ...] = ("chats", "closed", "streams", "open")
MODEL_PARTS: tuple[Part, ...] = ("model",)

_START_S: dict[Part, float] = {"chats": 1.0, "closed": 1.0, "streams": 1.0, "open": 1.0, "model": 5.0}
NUM_PLAIN = 3
"""Workloads beside chats and streams: JSON, database and template."""
_CROWD = 500
"""So many connections are given a second more."""
_WRK_S = 0.4
"""Around a load of wrk: to start it, and to read what it says."""
_STARTING_LOAD_S = 1.5
"""Around any other load: it starts an interpreter."""


class StreamLoad(msgspec.Struct, frozen=True, kw_only=True):
    """Streamed chats.

    Attributes:
        rates_per_s: arrivals of each open loop, at random (Poisson). Empty where they have yet to be found.
        rate_shares: the rates, as shares of what a closed loop of the users comes to on the machine at hand.
        rounds_of_ladder: over so many rounds the rates are spread, each in one of them; 1 has all of them in each.
        users: of a closed loop before them; None for no such loop.
        seconds: that count, of each load.
        warm_up_s: before them.
        timeout_s: a stream that has not ended by then has failed.
        prompt_tokens: of each prompt, about.
        tokens: of each answer.
        objectives: within which a request counts as good, as `--slo` of `bench load` has them.
    """

    rates_per_s: tuple[float, ...] = ()
    rate_shares: tuple[float, ...] = ()
    rounds_of_ladder: int = 1
    users: int | None = None
    seconds: float
    warm_up_s: float
    timeout_s: float
    prompt_tokens: int
    tokens: int
    objectives: str

    def rates_of(self, round_number: int) -> tuple[float, ...]:
        """Those of one round, ascending, so that what an overload leaves behind meets an overload."""
        return self.rates_per_s[round_number % self.rounds_of_ladder :: self.rounds_of_ladder]

    def budget_s(self, round_number: int) -> float:
        """How long one server is loaded in one round."""
        num_rates = len(self.rates_of(round_number)) or len(self.rate_shares)
        return (num_rates + (self.users is not None)) * self.load_s

    @property
    def load_s(self) -> float:
        """Of one load, about: one that is too much ends with its timeout, others much sooner."""
        return _STARTING_LOAD_S + self.warm_up_s + self.seconds + self.timeout_s / 4


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The same for every stack.

    Attributes:
        is_quick: the small form.
        stacks: that are compared.
        rounds: how often each stack is measured with the stub engine.
        chat_rounds: how often with the chats that goals are set for. A machine's speed varies from one second to the
            next and a process's from one start to the next: many short rounds average over both.
        model_rounds: how often with the embedded model.
        seconds: of each closed loop on the stub engine; of a crowd more, see `seconds_of`.
        warm_up_seconds: of chats before the first one that counts.
        busy_connections: at which all workloads are compared.
        crowd: connections at which waits and memory are compared.
        curve: connections of the chats' curve beside those two.
        streams: connections of the closed loop that streams.
        stream_tokens: of each of its answers.
        wrk_timeout_s: a later answer is a failure.
        steps_s: of the stub engine, by part. Under whole answers as short as that of a fast model, and no shorter:
            what comes together in a step is handed over together. Under streams more steps than anybody can send; not
            0, with which a step waits until the last one was taken: by an event loop, but not by threads.
        open_loops: streamed chats of the stub engine.
        model_loops: streamed chats of the embedded model.
        threads: of a WSGI server.
        server_core: the processor that servers run on, and nothing else.
        load_core: the processor of the loads, of PostgreSQL and of this program.
        seed: of the order, of arrivals and of prompts.
    """

    is_quick: bool
    stacks: tuple[Stack, ...]
    rounds: int
    chat_rounds: int
    model_rounds: int
    seconds: int
    warm_up_seconds: int
    busy_connections: int = 64
    crowd: int = 1000
    curve: tuple[int, ...]
    streams: int = 64
    stream_tokens: int = 256
    wrk_timeout_s: int = 30
    steps_s: dict[Part, float] = msgspec.field(
        default_factory=lambda: {"chats": 0.001, "closed": 0.001, "streams": 0.0001, "open": 0.005, "model": 0.0}
    )
    open_loops: StreamLoad
    model_loops: StreamLoad
    threads: int
    server_core: int
    load_core: int
    seed: int

    def seconds_of(self, connections: int) -> int:
        """Of a closed loop: a crowd takes a while until everybody has been answered more than once."""
        return self.seconds + connections // _CROWD

    def rounds_of(self, part: Part) -> int:
        """How often a part is measured."""
        if part == "chats":
            return self.chat_rounds
        return self.model_rounds if part in MODEL_PARTS else self.rounds

    def budget_s(self, part: Part, round_number: int) -> float:
        """How long a stack takes in one round."""
        if part == "open":
            return _START_S[part] + self.open_loops.budget_s(round_number)
        if part == "model":
            return _START_S[part] + self.model_loops.budget_s(round_number)
        if part == "chats":
            crowds = (self.busy_connections, self.crowd)
            return _START_S[part] + self.warm_up_seconds + sum(self.seconds_of(number) + _WRK_S for number in crowds)
        if part == "streams":
            return _START_S[part] + self.warm_up_seconds + self.seconds
        loads = [self.seconds_of(number) for number in self.curve] + [self.seconds] * NUM_PLAIN
        return _START_S[part] + self.warm_up_seconds + sum(seconds + _WRK_S for seconds in loads)

    @property
    def steps(self) -> list[tuple[Part, int, Stack]]:
        """A server each, in no order."""
        parts = (*STUB_PARTS, *MODEL_PARTS)
        rounds = [(part, number) for part in parts for number in range(self.rounds_of(part))]
        return [(part, number, stack) for part, number in rounds for stack in self.stacks if has_part(stack, part)]

    @property
    def total_s(self) -> float:
        """How long everything takes, about, with the calibration that precedes it."""
        return self.calibration_s + sum(self.budget_s(part, number) for part, number, _ in self.steps)

    @property
    def needs_model(self) -> bool:
        """Whether anybody is measured with the embedded model."""
        return any(part in MODEL_PARTS for part, _, _ in self.steps)

    @property
    def calibration_s(self) -> float:
        """How long it takes to find the model's rates."""
        return _START_S["model"] + self.model_loops.load_s if self.needs_model else 0.0


THREADS = 16
"""Of gunicorn's gthread worker; chosen by measuring, see docs/baselines.md."""


def has_part(stack: Stack, part: Part) -> bool:
    """A bare response generates nothing: it has no streams, and no model."""
    return part in {"chats", "closed"} or stack != "bare"


def full_plan(stacks: Sequence[Stack], rounds: int, server_core: int, load_core: int, seed: int) -> Plan:
    """About fifty minutes for all stacks in five rounds."""
    return Plan(
        is_quick=False,
        stacks=tuple(stacks),
        rounds=rounds,
        chat_rounds=2 * rounds + 1,
        model_rounds=max(1, rounds - 2),
        seconds=2,
        warm_up_seconds=2,
        curve=(1, 16, 100, 250, 500),
        open_loops=StreamLoad(
            rates_per_s=(10, 25, 50, 100, 150, 200, 300, 400),
            rounds_of_ladder=2,
            seconds=5.0,
            warm_up_s=1.0,
            timeout_s=5.0,
            prompt_tokens=32,
            tokens=32,
            objectives="ttft:100ms,tpot:20ms,e2e:1s",
        ),
        model_loops=StreamLoad(
            rate_shares=(0.25, 0.5, 0.75),
            users=2,
            seconds=10.0,
            warm_up_s=2.0,
            timeout_s=20.0,
            prompt_tokens=16,
            tokens=8,
            objectives="ttft:1s,tpot:200ms,e2e:3s",
        ),
        threads=THREADS,
        server_core=server_core,
        load_core=load_core,
        seed=seed,
    )


def quick_plan(stacks: Sequence[Stack], rounds: int, server_core: int, load_core: int, seed: int) -> Plan:
    """About eight minutes for all stacks in three rounds."""
    plan = full_plan(stacks, rounds, server_core, load_core, seed)
    return msgspec.structs.replace(
        plan,
        is_quick=True,
        chat_rounds=rounds,
        seconds=1,
        warm_up_seconds=1,
        curve=(100, 500),
        open_loops=msgspec.structs.replace(
            plan.open_loops,
            rates_per_s=(50, 150, 300),
            rounds_of_ladder=3,
            seconds=2.0,
            warm_up_s=0.5,
            timeout_s=2.5,
        ),
        model_loops=msgspec.structs.replace(
            plan.model_loops, rate_shares=(0.5,), seconds=5.0, warm_up_s=0.5, timeout_s=10.0
        ),
    )


ROUNDS = {"quick": 3, "full": 5}
"""Where the command line does not say how many."""
