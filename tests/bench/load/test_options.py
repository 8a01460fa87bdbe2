from __future__ import annotations

import argparse
import math
from typing import Any

import pytest

from bench.arrivals import Arrivals, Closed, Constant, Gamma, Poisson, Ramp, Step, Trace, Window
from bench.errors import BenchError
from bench.lengths import Fixed, LogNormal, Uniform
from bench.load.options import add_load_options, spec_of
from bench.load.plan import LoadSpec
from bench.slo import Objective
from bench.workload import Prefix


def spec(*arguments: str, **others: Any) -> LoadSpec:
    parser = argparse.ArgumentParser()
    add_load_options(parser)
    fields: dict[str, Any] = {"users": 3, "length_s": 10.0, "includes_ends": False}
    return spec_of(parser.parse_args(arguments), url="http://x", model="m", api_key=None, **fields | others)


@pytest.mark.parametrize(("line", "arrivals"), [
    ("", Closed(users=3)),
    ("--arrivals closed", Closed(users=3)),
    ("--arrivals constant --rate 2.5", Constant(rate_per_s=2.5)),
    ("--arrivals poisson --rate 20", Poisson(rate_per_s=20.0)),
    ("--arrivals gamma --rate 20 --burstiness 0.5", Gamma(rate_per_s=20.0, burstiness=0.5)),
    ("--arrivals ramp --rate 0 --to-rate 9", Ramp(from_per_s=0.0, to_per_s=9.0)),
    ("--arrivals step --rates 5,10,20", Step(rates_per_s=(5.0, 10.0, 20.0))),
    ("--arrivals trace --trace a.csv --trace-format azure", Trace(path="a.csv", format="azure")),
    ("--arrivals trace --trace a.csv --trace-format burstgpt --trace-speed 4",
     Trace(path="a.csv", format="burstgpt", speed=4.0)),
])  # fmt: skip
def test_arrivals(line: str, arrivals: Arrivals) -> None:
    assert spec(*line.split()).arrivals == arrivals


def test_everything_else() -> None:
    line = (
        "--prompt-tokens uniform:4:8 --output-tokens lognormal:64:0.5 --prefix-share 0.5 --prefix-tokens 9 "
        "--prefixes 2 --ignore-eos --whole --warm-up 1 --cool-down 2 --request-timeout 5 --slo ttft:200ms "
        "--raw r.jsonl --seed -4"
    )
    made = spec(*line.split(), "--extra", '{"top_p": 0.5}')
    assert made.prompt_tokens == Uniform(low=4, high=8)
    assert made.output_tokens == LogNormal(median=64.0, sigma=0.5)
    assert made.prefix == Prefix(share=0.5, tokens=9, number=2)
    assert made.extra == {"ignore_eos": True, "top_p": 0.5}
    assert (made.exact, made.stream, made.timeout_s, made.raw, made.seed) == (True, False, 5.0, "r.jsonl", -4)
    assert made.window == Window(warm_up_s=1.0, duration_s=10.0, cool_down_s=2.0)
    assert made.objectives == (Objective(name="ttft", limit_s=0.2),)


def test_without_options() -> None:
    made = spec()
    assert (made.prompt_tokens, made.output_tokens) == (Fixed(tokens=32), Fixed(tokens=64))
    assert (made.exact, made.stream, made.prefix, made.raw, made.extra) == (False, True, None, None, {})


def test_locusts_run_time_has_the_ends_within_it() -> None:
    arguments = ("--warm-up", "3", "--cool-down", "2")
    assert spec(*arguments, includes_ends=True).window == Window(warm_up_s=3.0, duration_s=5.0, cool_down_s=2.0)
    assert spec(length_s=math.inf).window.end_s == math.inf
    with pytest.raises(BenchError, match="leave nothing of 5 s"):
        spec(*arguments, includes_ends=True, length_s=5.0)


@pytest.mark.parametrize(("line", "message"), [
    ("--arrivals often", "arrivals: 'often' is none of closed, constant"),
    ("--arrivals poisson", "rate: poisson arrivals need it"),
    ("--rate 5", "rate: is not for closed arrivals"),
    ("--arrivals poisson --rate 5 --burstiness 2", "burstiness: is not for poisson arrivals"),
    ("--arrivals gamma --rate 5", "burstiness: gamma arrivals need it"),
    ("--arrivals constant --rate 5 --trace-speed 2", "trace-speed: is not for constant arrivals"),
    ("--arrivals poisson --rate many", "rate: 'many' is no number"),
    ("--arrivals poisson --rate nan", "rate: 'nan' is no number"),
    ("--arrivals poisson --rate 0", "rate: must be above 0"),
    ("--arrivals step --rates 5,,6", "rates: '' is no number"),
    ("--arrivals trace --trace x --trace-format csv", "trace-format: 'csv' is none of"),
    ("--prompt-tokens 0", "prompt-tokens: "),
    ("--output-tokens x", "output-tokens: "),
    ("--prefix-share 1.5", "prefix-share: must be at most 1"),
    ("--prefix-share 0", "prefix-share: must be above 0"),
    ("--extra [1]", "extra: is no JSON object"),
    ("--request-timeout 0", "request-timeout: must be above 0"),
    ("--warm-up -1", "warm-up: must be at least 0"),
    ("--slo fast:1s", "slo: 'fast' is none of"),
    ("--seed 1.5", "seed: must be a whole number"),
])  # fmt: skip
def test_what_cannot_be_is_refused_by_name(line: str, message: str) -> None:
    with pytest.raises(BenchError, match=message.replace("[", r"\[")):
        spec(*line.split())


def test_a_ramp_needs_an_end() -> None:
    with pytest.raises(BenchError, match="run-time: ramp arrivals need it"):
        spec("--arrivals", "ramp", "--rate", "1", "--to-rate", "2", length_s=math.inf)
