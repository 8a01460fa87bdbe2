"""What a run of the engine benchmark does, as it crosses into the child processes, and what comes back."""

from __future__ import annotations

from typing import Any

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


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """What one contender showed in one round.

    Attributes:
        metrics: figures by name; the name ends in the unit, and in @N where N clients or sequences were at work.
        details: raw samples and facts behind them.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = {}
