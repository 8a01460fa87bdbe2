"""Objectives of a load, and whether a request met them. Pure.

Goodput is the rate of requests that met all of them (Zhong et al. 2024, DistServe). Whatever has no whole and right
answer is a miss, as is a time that an answer does not have because too little of it came.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

import msgspec

from bench.errors import BenchError
from bench.record import RequestRecord

ObjectiveName = Literal["ttft", "tpot", "itl", "e2e"]

_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_EXAMPLE = "such as ttft:200ms,tpot:50ms,e2e:5s"


class Objective(msgspec.Struct, frozen=True, kw_only=True):
    """One time that a request must not exceed.

    Attributes:
        name: time to first token, time per output token, the longest inter-token latency, or the whole request.
        limit_s: in seconds.
    """

    name: ObjectiveName
    limit_s: float


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """What `--slo` says: names and times with their unit.

    Raises:
        BenchError: a name is unknown or comes twice, or a time cannot be understood.
    """
    objectives: dict[str, Objective] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, _, limit = (each.strip() for each in part.partition(":"))
        if name not in get_args(ObjectiveName):
            raise BenchError(f"slo: {name!r} is none of {', '.join(get_args(ObjectiveName))}, {_EXAMPLE}")
        if name in objectives:
            raise BenchError(f"slo: {name} comes twice")
        matched = _TIME.fullmatch(limit)
        if matched is None:
            raise BenchError(f"slo: {name} needs a time in ms or s, {_EXAMPLE}, not {limit!r}")
        limit_s = float(matched[1]) / (1000 if matched[2] == "ms" else 1)
        objectives[name] = msgspec.convert({"name": name, "limit_s": limit_s}, Objective)
    return tuple(objectives.values())


def meets(record: RequestRecord, objectives: tuple[Objective, ...]) -> bool:
    """Whether the answer was whole, right and in time."""
    return record.failure is None and all(_meets(record, objective) for objective in objectives)


def _meets(record: RequestRecord, objective: Objective) -> bool:
    match objective.name:
        case "ttft":
            taken_s = record.ttft_s
        case "tpot":
            taken_s = record.tpot_s
            if taken_s is None and record.token_times_s:
                return True  # an answer of one token has none, and keeps nobody waiting for the next
        case "itl":
            if not record.token_times_s:
                return False
            taken_s = max(record.gaps_s, default=0.0)
        case "e2e":
            taken_s = record.e2e_s
    return taken_s is not None and taken_s <= objective.limit_s
