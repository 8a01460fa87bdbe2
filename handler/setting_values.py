"""How settings are written in an environment: each parser takes a text, or raises ValueError and says why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

_CUDA_DEVICE = re.compile(r"cuda:(0|[1-9][0-9]{0,2})")
_OPENABLE_PATHS = ("/health", "/ready", "/ping", "/startup", "/metrics", "/version", "/openapi.json", "/docs")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+")


def integer(low: int, high: int) -> Callable[[str], int]:
    """Parses a whole number from `low` to `high`, both included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("must be a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"must be between {low} and {high}")
        return value

    return parse


def number(low: float, high: float) -> Callable[[str], float]:
    """Parses a number from `low` to `high`, both included."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("must be a number") from None
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(f"must be between {low:g} and {high:g}")
        return value

    return parse


def choice(literal: object) -> Callable[[str], str]:
    """Parses one of the words of a `Literal`, in small or capital letters."""
    allowed = get_args(literal)

    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text.lower()

    return parse


def boolean(text: str) -> bool:
    """Yes or no, in the words that people use for it."""
    words = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    if text.lower() not in words:
        raise ValueError("must be 1 or 0, true or false, yes or no, on or off")
    return words[text.lower()]


def device(text: str) -> str:
    """One device, or several CUDA devices."""
    if text in {"auto", "cpu", "cuda"}:
        return text
    devices = [device.strip() for device in text.split(",")]
    if not all(_CUDA_DEVICE.fullmatch(device) for device in devices):
        raise ValueError("must be auto, cpu, cuda, cuda:N or a list like cuda:0,cuda:2")
    if len(set(devices)) < len(devices):
        raise ValueError("must not name a device twice")
    return ",".join(devices)


def parts(text: str) -> tuple[str, ...]:
    """The parts between commas."""
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


_limit = integer(1, 1_000_000_000)


def rate_limits(text: str) -> dict[str, int]:
    """`60`, `alice:600`, or both and more of them, separated by commas."""
    limits: dict[str, int] = {}
    for item in parts(text):
        name, separator, value = item.rpartition(":")
        name = name.strip() if separator else "*"
        if not name or name in limits:
            raise ValueError("must be a number, or numbers as name:number, separated by commas, and none twice")
        limits[name] = _limit(value)
    if not limits:
        raise ValueError("must hold a limit")  # `,` is what is left of two variables that nobody set
    return limits


def keyless_paths(text: str) -> tuple[str, ...]:
    """Paths that may answer without a key, or `none`."""
    paths = () if text == "none" else parts(text)
    if not set(paths) <= set(_OPENABLE_PATHS):
        raise ValueError(f"must be none, or some of {', '.join(_OPENABLE_PATHS)}")
    return paths


def database_url(text: str) -> str:
    """A PostgreSQL URL, or `none`. It is never quoted, for it may hold a password."""
    try:
        is_good = text == "none" or urlsplit(text).scheme in {"postgresql", "postgres"}
    except ValueError:  # its message may hold the password
        is_good = False
    if not is_good:
        raise ValueError("must be a postgresql:// URL or 'none'")
    return text


def http_url(text: str) -> str:
    """The URL of a server. It is never quoted, for it may hold a password."""
    try:
        url = urlsplit(text)
        is_good = url.scheme in {"http", "https"} and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:  # its message may hold the password
        is_good = False
    if not is_good or url.query or url.fragment:
        raise ValueError("must be an http:// or https:// URL without a query")
    return text


def redis_url(text: str) -> str:
    """A Redis URL. It is never quoted, for it may hold a password."""
    try:
        url = urlsplit(text)
        is_good = (url.scheme in {"redis", "rediss"} and (url.port or 1) > 0) or url.scheme == "unix"
    except ValueError:  # its message may hold the password
        is_good = False
    if not is_good:
        raise ValueError("must be a redis://, rediss:// or unix:// URL")
    return text


def path(text: str) -> Path:
    """A path, absolute from now on."""
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("must be a path; its user is unknown") from error


def origins(text: str) -> tuple[str, ...]:
    """Browser origins."""
    named = parts(text)
    for origin in named:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError("must be * or origins like https://app.example.com, without a path")
    return named
