"""Engine steps of two functions that decode side by side: at any moment one runs, and the other is stopped.

The streams of both begin once and go on through all turns. So a turn has no prompts to compute, can be as short as some
steps, and has a neighbour that shares the moment with it. A stopped process (SIGSTOP) loses nothing but its turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import random
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence

import uvloop

from bench.client import StreamSample, stream_chat
from bench.closed_loop import run_closed_loop
from bench.errors import BenchError
from bench.gate.blame import SIDES, SideName, blaming
from bench.gate.function import ANSWER_S, Function
from bench.gate.pair import Pair, abba
from bench.gate.plan import Plan
from bench.gate.turns import neighbours
from bench.workload import story_prompt

_WARM_TOKENS = 24
_MIN_TURN_S = 0.05
_MIN_TURNS = 3
_LEFT_OVER = 0.1
"""Of a turn, in which tokens come that were generated before it: they had not been sent yet."""

Turn = tuple[float, float]
"""When it began and ended, by `time.perf_counter`."""


def step_ms(functions: Pair[Function], plan: Plan, batch: int, turns: int, rng: random.Random) -> Pair[float]:
    """The time from one token to the next where `batch` streams run together: a step, where nobody else runs.

    Args:
        functions: that run, and have nothing else to do.
        plan: with the steps of a turn.
        batch: number of sequences.
        turns: of each side, about.
        rng: of the order.

    Raises:
        SideError: one of them did not answer.
        BenchError: too few turns were whole.
    """
    prompts = [story_prompt(plan.seed, number) for number in range(batch)]
    steps_s = Pair(*(_warm(name, function, prompts) for name, function in zip(SIDES, functions, strict=True)))
    turn_s = max(_MIN_TURN_S, (plan.turn_steps + 1) * max(steps_s))
    num_tokens = math.ceil(turns * turn_s / min(steps_s))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        streams, taken = runner.run(_decode_in_turns(functions, prompts, num_tokens, turn_s, rng))
    return neighbours(turn_steps_ms(streams, taken))


def turn_steps_ms(streams: Pair[Sequence[StreamSample]], turns: Pair[Sequence[Turn]]) -> Pair[list[float]]:
    """The median step of each turn, of those pairs of turns in which both sides did nothing but decode. Pure.

    Raises:
        BenchError: there are too few.
    """
    steps_ms: Pair[list[float]] = Pair([], [])
    for pair in zip(*turns, strict=True):
        steps_s = [_step_in(turn, side) for turn, side in zip(pair, streams, strict=True)]
        if all(steps_s):
            for side_ms, step_s in zip(steps_ms, steps_s, strict=True):
                side_ms.append(step_s * 1e3)
    if len(steps_ms.base) < _MIN_TURNS:
        raise BenchError(f"{len(steps_ms.base)} whole turns of decoding are too few")
    return steps_ms


def _step_in(turn: Turn, streams: Sequence[StreamSample]) -> float:
    """Median of the steps that began and ended in the turn.

    0 where a stream was not yet or no longer being generated, and where most steps were found with the one before: a
    machine so busy that the client is late says nothing of them.
    """
    began_s, ended_s = turn
    if any(stream.token_times_s[0] > began_s or stream.token_times_s[-1] < ended_s for stream in streams):
        return 0.0
    fresh_s = began_s + _LEFT_OVER * (ended_s - began_s)
    inside = [[time_s for time_s in stream.token_times_s if fresh_s <= time_s <= ended_s] for stream in streams]
    gaps_s = [after - before for times in inside for before, after in itertools.pairwise(times)]
    return statistics.median(gaps_s) if gaps_s else 0.0


def about_step_s(streams: Sequence[StreamSample]) -> float:
    """Seconds of a step, roughly, and never 0. Pure.

    A late client finds most steps at once, or all of a short answer.
    """
    gaps_s = [gap_s for stream in streams for gap_s in stream.gaps_s] or [0.0]
    whole_s = statistics.median((stream.ended_s - stream.sent_s) / stream.completion_tokens for stream in streams)
    return statistics.median(gaps_s) or statistics.fmean(gaps_s) or whole_s


def _warm(name: SideName, function: Function, prompts: Sequence[str]) -> float:
    """Seconds of a step, in a first go that leaves the prompts in the prefix cache."""
    with blaming(name):
        return about_step_s(
            run_closed_loop(function.endpoint, [[prompt] for prompt in prompts], _WARM_TOKENS, ANSWER_S).streams
        )


async def _decode_in_turns(
    functions: Pair[Function], prompts: Sequence[str], num_tokens: int, turn_s: float, rng: random.Random
) -> tuple[Pair[list[StreamSample]], Pair[list[Turn]]]:
    """All streams of both, and the turns that were taken until the first stream ended."""
    turns: Pair[list[Turn]] = Pair([], [])
    with _stopped(functions) as pids:
        asking = [
            asyncio.gather(*(_ask(name, function, prompt, num_tokens) for prompt in prompts))
            for name, function in zip(SIDES, functions, strict=True)
        ]
        for side in abba(sys.maxsize, rng):
            os.kill(pids[side], signal.SIGCONT)
            began_s = time.perf_counter()
            await asyncio.sleep(turn_s)
            ended_s = time.perf_counter()
            _stop(pids[side])
            turns[side].append((began_s, ended_s))
            if any(each.done() for each in asking) and len(turns.base) == len(turns.head):
                break
    base, head = await asyncio.gather(*asking)
    return Pair(base, head), turns


async def _ask(name: SideName, function: Function, prompt: str, num_tokens: int) -> StreamSample:
    with blaming(name):
        return await stream_chat(function.endpoint, prompt, num_tokens, ANSWER_S)


@contextlib.contextmanager
def _stopped(functions: Pair[Function]) -> Iterator[Pair[int]]:
    """Their processes, stopped in the beginning; they run again in the end, whatever happened."""
    pids = functions.each(lambda function: function.pid)
    try:
        for pid in pids:
            _stop(pid)
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _stop(pid: int) -> None:
    """Only when it has stopped may the other one begin, which can be some milliseconds later."""
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
