"""How many tokens a prompt or an answer has: fixed, or drawn. Pure.

Written on command lines as `64`, `uniform:64:256` or `lognormal:64:0.5`, the last with `:512` behind it for the most.
"""

from __future__ import annotations

import math
import random
import re

import msgspec

from bench.errors import BenchError

_NUMBER = r"\d+(?:\.\d+)?"
_WRITTEN = re.compile(
    r"(?P<fixed>\d+)"
    r"|uniform:(?P<low>\d+):(?P<high>\d+)"
    rf"|lognormal:(?P<median>{_NUMBER}):(?P<sigma>{_NUMBER})(?::(?P<most>\d+))?",
    re.ASCII,
)


class Fixed(msgspec.Struct, frozen=True, kw_only=True, tag="fixed"):
    """Always the same."""

    tokens: int


class Uniform(msgspec.Struct, frozen=True, kw_only=True, tag="uniform"):
    """Each number from `low` to `high` is as likely as any other, both included."""

    low: int
    high: int


class LogNormal(msgspec.Struct, frozen=True, kw_only=True, tag="lognormal"):
    """As many are below the median as above it, with a long tail to the right.

    Attributes:
        median: in tokens.
        sigma: standard deviation of the logarithm: e to the power of it is how far two thirds lie from the median.
        most: what exceeds it is drawn again, so that the shape below it stays; None leaves the tail as it is.
    """

    median: float
    sigma: float
    most: int | None = None


Length = Fixed | Uniform | LogNormal


def draw(length: Length, rng: random.Random) -> int:
    """A number of tokens, at least 1."""
    match length:
        case Fixed(tokens=tokens):
            return tokens
        case Uniform(low=low, high=high):
            return rng.randint(low, high)
        case LogNormal(median=median, sigma=sigma, most=most):
            while True:
                tokens = round(rng.lognormvariate(math.log(median), sigma))
                if tokens >= 1 and (most is None or tokens <= most):
                    return tokens


def parse_length(text: str, name: str) -> Length:
    """What a command line says.

    Args:
        text: such as `uniform:64:256`.
        name: of the option, for errors.

    Raises:
        BenchError: it cannot be understood, or no length can come of it.
    """
    length = _parsed(text)
    if length is None:
        message = f"{name}: {text!r} is none of 64, uniform:64:256, lognormal:64:0.5 and lognormal:64:0.5:512"
        raise BenchError(message)
    check_length(length, name)
    return length


def _parsed(text: str) -> Length | None:
    matched = _WRITTEN.fullmatch(text)
    if matched is None:
        return None
    if matched["fixed"]:
        return Fixed(tokens=int(matched["fixed"]))
    if matched["low"]:
        return Uniform(low=int(matched["low"]), high=int(matched["high"]))
    most = int(matched["most"]) if matched["most"] else None
    return LogNormal(median=float(matched["median"]), sigma=float(matched["sigma"]), most=most)


def check_length(length: Length, name: str) -> None:
    """Refuse what no number of tokens can come of.

    Raises:
        BenchError: saying why.
    """
    match length:
        case Fixed(tokens=tokens):
            is_good = tokens >= 1
        case Uniform(low=low, high=high):
            is_good = 1 <= low <= high
        case LogNormal(median=median, sigma=sigma, most=most):
            # A median above what is allowed would leave most draws to be made again, and the shape to be another one.
            is_good = 1.0 <= median < math.inf and 0.0 <= sigma < math.inf and (most is None or most >= median)
    if not is_good:
        raise BenchError(f"{name}: needs at least one token, the smaller number first, and a median within the most")
