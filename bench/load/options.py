"""The options that say what a load is, the same on our command line and on Locust's, and what they come to. Pure.

All are text or numbers with a default of nothing, for Locust's web page keeps the type that a default has.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import msgspec

from bench.arrivals import Arrivals, Closed, Constant, Gamma, Poisson, Ramp, Step, Trace, Window, check_arrivals
from bench.errors import BenchError
from bench.lengths import parse_length
from bench.load.plan import LoadSpec
from bench.slo import parse_objectives
from bench.workload import Prefix

_PROCESSES = ("closed", "constant", "poisson", "gamma", "ramp", "step", "trace")
_NEEDED = {
    "closed": (),
    "constant": ("rate",),
    "poisson": ("rate",),
    "gamma": ("rate", "burstiness"),
    "ramp": ("rate", "to_rate"),
    "step": ("rates",),
    "trace": ("trace", "trace_format"),
}
_OPTIONAL = {"trace": ("trace_speed",)}


def add_load_options(parser: argparse.ArgumentParser) -> None:
    """Declare what both command lines have. In no group: Locust's web page does not show what is in one."""
    parser.add_argument("--arrivals", default="", metavar="PROCESS", help=f"{', '.join(_PROCESSES)} (closed)")
    parser.add_argument("--rate", default="", help="requests a second, of a ramp the first")
    parser.add_argument("--to-rate", default="", help="of a ramp the last")
    parser.add_argument("--rates", default="", help="of steps, such as 5,10,20")
    parser.add_argument("--burstiness", default="", help="of gamma: below 1 in bursts, 1 is poisson, above 1 evenly")
    parser.add_argument("--trace", default="", metavar="FILE", help="CSV with arrivals and lengths")
    parser.add_argument("--trace-format", default="", help="burstgpt or azure")
    parser.add_argument("--trace-speed", default="", help="2 replays it twice as fast (1)")
    parser.add_argument("--prompt-tokens", default="32", help="64, uniform:64:256 or lognormal:64:0.5 (32)")
    parser.add_argument("--output-tokens", default="64", help="likewise (64)")
    parser.add_argument(
        "--prefix-share", default="", help="of the requests, that begin with a common prefix, such as 0.5"
    )
    parser.add_argument("--prefix-tokens", default="64", help="of a common prefix (64)")
    parser.add_argument("--prefixes", default="1", help="different common prefixes (1)")
    parser.add_argument(
        "--ignore-eos", action="store_true", help="ask for answers of just so many tokens, and count them"
    )
    parser.add_argument("--whole", action="store_true", help="ask for whole answers, not for streams")
    parser.add_argument("--extra", default="", metavar="JSON", help="further fields of each request")
    parser.add_argument("--warm-up", default="0", help="seconds before what is measured (0)")
    parser.add_argument("--cool-down", default="0", help="seconds after it (0)")
    parser.add_argument("--request-timeout", default="60", help="seconds that a request may take from its arrival (60)")
    parser.add_argument("--slo", default="", help="objectives, such as ttft:200ms,tpot:50ms,e2e:5s")
    parser.add_argument("--raw", default="", metavar="FILE", help="write each request as a line of JSON")
    parser.add_argument("--seed", default="0", help="of everything that is drawn (0)")


def spec_of(
    options: argparse.Namespace,
    *,
    url: str,
    model: str,
    api_key: str | None,
    users: int,
    length_s: float,
    includes_ends: bool,
) -> LoadSpec:
    """The load that the options say.

    Args:
        options: as parsed, from either command line.
        url: of the server.
        model: its name there.
        api_key: None sends none.
        users: of a closed loop.
        length_s: of the measured time.
        includes_ends: whether warm-up and cool-down lie within `length_s`, and not around it.

    Raises:
        BenchError: an option cannot be understood, or does not go with the others.
    """
    arrivals = _arrivals(options, users)
    check_arrivals(arrivals)
    if isinstance(arrivals, Ramp | Step) and not math.isfinite(length_s):
        raise BenchError(f"run-time: {options.arrivals} arrivals need it")
    exact = bool(options.ignore_eos)
    return LoadSpec(
        url=url,
        model=model,
        api_key=api_key,
        stream=not options.whole,
        arrivals=arrivals,
        prompt_tokens=parse_length(options.prompt_tokens, "prompt-tokens"),
        output_tokens=parse_length(options.output_tokens, "output-tokens"),
        prefix=_prefix(options),
        extra=({"ignore_eos": True} if exact else {}) | _extra(options.extra),
        exact=exact,
        window=_window(options, length_s, includes_ends=includes_ends),
        timeout_s=_number(options, "request_timeout", least=0.0, is_above=True),
        objectives=parse_objectives(options.slo),
        seed=_seed(options.seed),
        raw=options.raw or None,
    )


def _arrivals(options: argparse.Namespace, users: int) -> Arrivals:
    """The process, which has all the options that it needs and none that it does not know."""
    name = options.arrivals or "closed"
    if name not in _PROCESSES:
        raise BenchError(f"arrivals: {name!r} is none of {', '.join(_PROCESSES)}")
    known = (*_NEEDED[name], *_OPTIONAL.get(name, ()))
    for option in sorted({each for needed in _NEEDED.values() for each in needed} | {"trace_speed"}):
        is_given = getattr(options, option) != ""
        if is_given and option not in known:
            raise BenchError(f"{_written(option)}: is not for {name} arrivals")
        if not is_given and option in _NEEDED[name]:
            raise BenchError(f"{_written(option)}: {name} arrivals need it")
    match name:
        case "closed":
            return Closed(users=users)
        case "ramp":
            return Ramp(from_per_s=_number(options, "rate"), to_per_s=_number(options, "to_rate"))
        case "step":
            return Step(rates_per_s=tuple(_parse(part, "rates") for part in options.rates.split(",")))
        case "trace":
            return _trace(options)
        case "gamma":
            return Gamma(rate_per_s=_number(options, "rate"), burstiness=_number(options, "burstiness"))
        case _:
            process = Constant if name == "constant" else Poisson
            return process(rate_per_s=_number(options, "rate"))


def _trace(options: argparse.Namespace) -> Trace:
    speed = _number(options, "trace_speed") if options.trace_speed else 1.0
    try:
        return msgspec.convert(
            {"type": "trace", "path": options.trace, "format": options.trace_format, "speed": speed}, Trace
        )
    except msgspec.ValidationError:
        raise BenchError(f"trace-format: {options.trace_format!r} is none of burstgpt and azure") from None


def _window(options: argparse.Namespace, length_s: float, *, includes_ends: bool) -> Window:
    warm_up_s, cool_down_s = _number(options, "warm_up"), _number(options, "cool_down")
    duration_s = length_s - warm_up_s - cool_down_s if includes_ends else length_s
    if duration_s <= 0:
        raise BenchError(f"warm-up and cool-down leave nothing of {length_s:g} s to measure")
    return Window(warm_up_s=warm_up_s, duration_s=duration_s, cool_down_s=cool_down_s)


def _prefix(options: argparse.Namespace) -> Prefix | None:
    if not options.prefix_share:
        return None
    share = _number(options, "prefix_share", is_above=True)
    tokens, number = _number(options, "prefix_tokens", least=1.0), _number(options, "prefixes", least=1.0)
    if share > 1.0 or not tokens.is_integer() or not number.is_integer():
        raise BenchError("prefix-share: must be at most 1, of whole numbers of tokens and prefixes")
    return Prefix(share=share, tokens=int(tokens), number=int(number))


def _extra(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BenchError(f"extra: is no JSON object: {error}") from error


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise BenchError(f"seed: must be a whole number, not {text!r}") from None


def _number(options: argparse.Namespace, option: str, *, least: float = 0.0, is_above: bool = False) -> float:
    value = _parse(getattr(options, option), _written(option))
    if value < least or (is_above and value == least):
        raise BenchError(f"{_written(option)}: must be {'above' if is_above else 'at least'} {least:g}, not {value:g}")
    return value


def _parse(text: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BenchError(f"{name}: {text!r} is no number")
    return value


def _written(option: str) -> str:
    return option.replace("_", "-")
