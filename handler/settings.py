"""All settings, read once from an environment mapping. A value that cannot work raises, naming its key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
import platformdirs

from handler.errors import ConfigurationError
from handler.keys import join_keys, parse_keys, read_keys

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["auto", "none", "int8", "fp8"]
LogLevel = Literal["debug", "info", "warning", "error"]

# A password may hold any character but is told from a port by the @ behind it.
_USER_PASSWORD = re.compile(r"(?<=//)([^:@/?#]*):(?![0-9]*(?:[/?#,]|$)).*@")
_QUERY_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&#]*")
_CUDA_DEVICE = re.compile(r"cuda:(0|[1-9][0-9]{0,2})")
_OPENABLE_PATHS = ("/health", "/ready", "/ping", "/startup", "/metrics", "/version", "/openapi.json", "/docs")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/?#\s]+")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the function runs with. Each field is the environment variable of the same name in capitals.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        model_name: `smollm2-135m` (embedded), a hub id, a directory or a `.gguf` file.
        model_device: auto, cpu, cuda, or cuda:N and several of those separated by commas; one engine on each device.
        torch_dtype: of activations and unquantised weights; auto is float32 on the CPU, bfloat16 on CUDA.
        quantization: of the linear layers: int8, or fp8 where the device has it; auto is int8 on the CPU.
        max_batch_size: sequences in one step of one device at most.
        max_model_len: tokens of prompt and completion together; None takes the model's own limit.
        prefill_chunk_tokens: prompt tokens computed in one step at most, beside the decoding sequences.
        kv_cache_fraction: share of the memory free after loading that the KV cache may take; None: the device decides.
        speculation_tokens: tokens guessed ahead in one step at most, by prompt lookup; None leaves it to the backend.
        max_queued_requests: sequences that may wait beyond max_batch_size before requests are refused.
        max_queued_tokens: tokens of those that wait, prompts and what their completions are likely to be.
        queue_timeout: seconds that a request may wait for its turn, once the model is loaded.
        default_max_tokens: where a request names none; None generates up to the model's limit.
        default_temperature: where a request names none; None takes the model's own generation_config.json.
        body_timeout: seconds that a request's head may take to arrive, and then its body.
        request_timeout: seconds a request may take, queueing included.
        heartbeat_interval: seconds of silence after which a stream gets a comment; 0 sends none.
        step_timeout: seconds that a step of the engine may take before it counts as hung, and the engine as lost.
        drain_timeout: seconds that running requests are given after SIGTERM.
        database_url: None is the embedded PostgreSQL, "none" keeps records in the spool only.
        db_pool_size: connections to PostgreSQL at most.
        spool_dir: where records wait for PostgreSQL; None is a directory below pilotlight_home.
        spool_max_bytes: what waits there may take on disk.
        log_prompts: store prompts and completions in the request log.
        api_keys: SHA-256 digests of the accepted bearer tokens, by name; empty lets everybody in.
        api_keys_file: a file with more of them, as platforms mount secrets.
        keyless_paths: what answers without a key where there are keys.
        rate_limit_requests_per_minute: by the key's name, "*" for all that have none of their own; none: no limit.
        rate_limit_tokens_per_minute: the same for tokens of prompts and completions.
        redis_url: where rate limits are counted; None counts in this process.
        max_body_bytes: largest request body.
        cors_origins: browser origins allowed to call; empty allows none.
        log_level: of the function's own log.
        enable_metrics: serve /metrics.
        pilotlight_home: snapshots, spool and the embedded database live below it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "smollm2-135m"
    model_device: str = "auto"
    torch_dtype: Dtype = "auto"
    quantization: Quantization = "auto"
    max_batch_size: int = 16
    max_model_len: int | None = None
    prefill_chunk_tokens: int = 256
    kv_cache_fraction: float | None = None
    speculation_tokens: int | None = None
    max_queued_requests: int = 256
    max_queued_tokens: int = 262144
    queue_timeout: float = 30.0
    default_max_tokens: int | None = None
    default_temperature: float | None = None
    body_timeout: float = 60.0
    request_timeout: float = 300.0
    heartbeat_interval: float = 15.0
    step_timeout: float = 30.0
    drain_timeout: float = 30.0
    database_url: str | None = None
    db_pool_size: int = 4
    spool_dir: Path | None = None
    spool_max_bytes: int = 1024 * 1024 * 1024
    log_prompts: bool = False
    api_keys: dict[str, bytes] = {}
    api_keys_file: Path | None = None
    keyless_paths: tuple[str, ...] = ("/health", "/ready", "/ping", "/startup")
    rate_limit_requests_per_minute: dict[str, int] = {}
    rate_limit_tokens_per_minute: dict[str, int] = {}
    redis_url: str | None = None
    max_body_bytes: int = 4 * 1024 * 1024
    cors_origins: tuple[str, ...] = ()
    log_level: LogLevel = "info"
    enable_metrics: bool = True
    pilotlight_home: Path

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read settings from `environ`; empty values count as unset.

        Raises:
            ConfigurationError: a value has the wrong form or lies outside its range.
        """
        env = {key: value.strip() for key, value in environ.items() if value.strip()}
        values: dict[str, object] = {"pilotlight_home": platformdirs.user_data_path("pilotlight")}
        for field, parse in _PARSERS.items():
            key = field.upper()
            if key in env:
                try:
                    values[field] = parse(env[key])
                except ValueError as error:
                    raise ConfigurationError(key, f"{error}, got {_shown(key, env[key])}") from error
        _add_keys_of_file(values)
        _check_limited_keys(values)
        return cls(**values)  # type: ignore[arg-type]  # each parser returns its field's type

    @property
    def spool_directory(self) -> Path:
        """Where records wait for PostgreSQL, named or not."""
        return self.spool_dir or self.pilotlight_home / "spool"

    @property
    def keeps_spool(self) -> bool:
        """Whether what is in the spool at exit will be found again.

        Somebody who names a directory means one that stays. The default one stays where the embedded database does; a
        database elsewhere is a sign of a container, whose files go with it.
        """
        return self.spool_dir is not None or self.database_url in {None, "none"}

    def __repr__(self) -> str:
        """What `public` shows: an object turns up in tracebacks and debuggers."""
        return f"Settings({self.public()})"

    def public(self) -> dict[str, object]:
        """Every setting in a form fit for a log or a screen: keys hidden, passwords masked."""
        shown: dict[str, object] = {}
        for field in self.__struct_fields__:
            value: Any = self.spool_directory if field == "spool_dir" else getattr(self, field)
            if field == "api_keys":
                value = sorted(value)
            elif field in {"database_url", "redis_url"} and value is not None:
                value = without_password(value)
            elif isinstance(value, Path):
                value = str(value)
            shown[field.upper()] = value
        return shown


def without_password(url: str) -> str:
    """The URL with its password, if it has one, replaced by stars."""
    return _QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", url))


def _shown(key: str, value: str) -> str:
    return "a secret" if key in {"API_KEYS", "DATABASE_URL", "REDIS_URL"} else repr(value)


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError("must be a whole number") from None
        if not low <= value <= high:
            raise ValueError(f"must be between {low} and {high}")
        return value

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise ValueError("must be a number") from None
        if not low <= value <= high:  # also refuses NaN
            raise ValueError(f"must be between {low:g} and {high:g}")
        return value

    return parse


_limit = _integer(1, 1_000_000_000)


def _choice(literal: object) -> Callable[[str], str]:
    allowed = get_args(literal)

    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return text.lower()

    return parse


def _boolean(text: str) -> bool:
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


def _device(text: str) -> str:
    if text in {"auto", "cpu", "cuda"}:
        return text
    devices = [device.strip() for device in text.split(",")]
    if not all(_CUDA_DEVICE.fullmatch(device) for device in devices):
        raise ValueError("must be auto, cpu, cuda, cuda:N or a list like cuda:0,cuda:2")
    if len(set(devices)) < len(devices):
        raise ValueError("must not name a device twice")
    return ",".join(devices)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part for part in (piece.strip() for piece in text.split(",")) if part)


def _add_keys_of_file(values: dict[str, object]) -> None:
    path, keys = values.get("api_keys_file"), values.get("api_keys", {})
    if path is None:
        return
    assert isinstance(path, Path)
    assert isinstance(keys, dict)
    try:
        values["api_keys"] = join_keys(keys, read_keys(path))
    except ValueError as error:
        raise ConfigurationError("API_KEYS_FILE", f"{error}, got {str(path)!r}") from error


def _check_limited_keys(values: dict[str, object]) -> None:
    keys = values.get("api_keys", {})
    assert isinstance(keys, dict)
    for field in ("rate_limit_requests_per_minute", "rate_limit_tokens_per_minute"):
        limits = values.get(field, {})
        assert isinstance(limits, dict)
        unknown = limits.keys() - keys.keys() - {"*"}
        if unknown:
            raise ConfigurationError(field.upper(), f"must name keys of API_KEYS, got {', '.join(sorted(unknown))}")


def _rate_limits(text: str) -> dict[str, int]:
    """`60`, `alice:600`, or both and more of them, separated by commas."""
    limits: dict[str, int] = {}
    for item in _list(text):
        name, separator, number = item.rpartition(":")
        name = name.strip() if separator else "*"
        if not name or name in limits:
            raise ValueError("must be a number, or numbers as name:number, separated by commas, and none twice")
        limits[name] = _limit(number)
    return limits


def _keyless_paths(text: str) -> tuple[str, ...]:
    paths = () if text == "none" else _list(text)
    if not set(paths) <= set(_OPENABLE_PATHS):
        raise ValueError(f"must be none, or some of {', '.join(_OPENABLE_PATHS)}")
    return paths


def _database_url(text: str) -> str:
    try:
        is_good = text == "none" or urlsplit(text).scheme in {"postgresql", "postgres"}
    except ValueError:  # its message may hold the password
        is_good = False
    if not is_good:
        raise ValueError("must be a postgresql:// URL or 'none'")
    return text


def _redis_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_good = (parts.scheme in {"redis", "rediss"} and (parts.port or 1) > 0) or parts.scheme == "unix"
    except ValueError:  # its message may hold the password
        is_good = False
    if not is_good:
        raise ValueError("must be a redis://, rediss:// or unix:// URL")
    return text


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("must be a path; its user is unknown") from error


def _origins(text: str) -> tuple[str, ...]:
    origins = _list(text)
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise ValueError("must be * or origins like https://app.example.com, without a path")
    return origins


_PARSERS: dict[str, Callable[[str], object]] = {
    "host": str,
    "port": _integer(0, 65535),
    "model_name": str,
    "model_device": _device,
    "torch_dtype": _choice(Dtype),
    "quantization": _choice(Quantization),
    "max_batch_size": _integer(1, 4096),
    "max_model_len": _integer(16, 1 << 24),
    "prefill_chunk_tokens": _integer(128, 1 << 20),
    "kv_cache_fraction": _number(0.01, 0.98),
    "speculation_tokens": _integer(0, 64),
    "max_queued_requests": _integer(0, 1 << 20),
    "max_queued_tokens": _integer(0, 1 << 40),
    "queue_timeout": _number(0.1, 86400.0),
    "default_max_tokens": _integer(1, 1 << 24),
    "default_temperature": _number(0.0, 2.0),
    "body_timeout": _number(0.1, 3600.0),
    "request_timeout": _number(0.1, 86400.0),
    "heartbeat_interval": _number(0.0, 3600.0),
    "step_timeout": _number(0.1, 86400.0),
    "drain_timeout": _number(0.0, 3600.0),
    "database_url": _database_url,
    "db_pool_size": _integer(1, 1000),
    "spool_dir": _path,
    "spool_max_bytes": _integer(1 << 20, 1 << 50),
    "log_prompts": _boolean,
    "api_keys": parse_keys,
    "api_keys_file": _path,
    "keyless_paths": _keyless_paths,
    "rate_limit_requests_per_minute": _rate_limits,
    "rate_limit_tokens_per_minute": _rate_limits,
    "redis_url": _redis_url,
    "max_body_bytes": _integer(1024, 1 << 32),
    "cors_origins": _origins,
    "log_level": _choice(LogLevel),
    "enable_metrics": _boolean,
    "pilotlight_home": _path,
}
