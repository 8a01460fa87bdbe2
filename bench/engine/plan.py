"""What a run of the engine benchmark does, as it crosses into the child processes."""

from __future__ import annotations

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The same for every contender.

    Attributes:
        snapshot: directory of the model.
        clients: batch sizes in process, numbers of clients over HTTP.
        tokens: to generate for each request.
        requests_per_client: one after the other.
        prompt_tokens: length of the long prompt.
        rounds: how often each contender is started and measured.
        seed: of the prompts and of the order of the contenders.
    """

    snapshot: str
    clients: tuple[int, ...]
    tokens: int
    requests_per_client: int
    prompt_tokens: int
    rounds: int
    seed: int


class InProcessSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the child process that measures the engine gets.

    Attributes:
        plan: of the run.
        round_number: makes the prompts of each round new ones.
        with_profile: look where a step's time goes, instead of at rates.
        bandwidth_bytes: size of the buffers that memory bandwidth is measured with.
    """

    plan: Plan
    round_number: int
    with_profile: bool
    bandwidth_bytes: int
