"""All settings, read once from an environment mapping. A value that cannot work raises, naming its key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

import msgspec
import platformdirs

from handler.errors import ConfigurationError

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["auto", "none", "int8", "fp8"]
LogLevel = Literal["debug", "info", "warning", "error"]

# A password may hold any character but is told from a port by the @ behind it.
_USER_PASSWORD = re.compile(r"(?<=//)([^:@/?#]*):(?![0-9]*(?:[/?#,]|$)).*@")
_QUERY_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&#]*")
_CUDA_DEVICE = re.compile(r"cuda:(0|[1-9][0-9]{0,2})")
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
        default_max_tokens: where a request names none; None generates up to the model's limit.
        default_temperature: where a request names none; None takes the model's own generation_config.json.
        request_timeout: seconds a request may take, queueing included.
        heartbeat_interval: seconds of silence after which a stream gets a comment; 0 sends none.
        step_timeout: seconds that a step of the engine may take before it counts as hung, and the engine as lost.
        drain_timeout: seconds that running requests are given after SIGTERM.
        database_url: None is the embedded PostgreSQL, "none" keeps records in the spool only.
        db_pool_size: connections to PostgreSQL at most.
        spool_dir: where records wait for PostgreSQL.
        log_prompts: store prompts and completions in the request log.
        api_keys: accepted bearer tokens by name; empty lets everybody in.
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
    default_max_tokens: int | None = None
    default_temperature: float | None = None
    request_timeout: float = 300.0
    heartbeat_interval: float = 15.0
    step_timeout: float = 30.0
    drain_timeout: float = 30.0
    database_url: str | None = None
    db_pool_size: int = 4
    spool_dir: Path
    log_prompts: bool = False
    api_keys: dict[str, str] = {}
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
        home = values["pilotlight_home"]
        assert isinstance(home, Path)
        return cls(**{"spool_dir": home / "spool"} | values)  # type: ignore[arg-type]  # each parser returns its field's type

    def public(self) -> dict[str, object]:
        """Every setting in a form fit for a log or a screen: keys hidden, passwords masked."""
        shown: dict[str, object] = {}
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if field == "api_keys":
                value = sorted(value)
            elif field == "database_url" and value is not None:
                value = without_password(value)
            elif isinstance(value, Path):
                value = str(value)
            shown[field.upper()] = value
        return shown


def without_password(url: str) -> str:
    """The URL with its password, if it has one, replaced by stars."""
    return _QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", url))


def _shown(key: str, value: str) -> str:
    return "a secret" if key in {"API_KEYS", "DATABASE_URL"} else repr(value)


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


def _api_keys(text: str) -> dict[str, str]:
    keys: dict[str, str] = {}
    for number, item in enumerate(_list(text), start=1):
        name, separator, key = item.partition(":")
        if not separator:
            name, key = f"key-{number}", item
        if not name or not key:
            raise ValueError("must be keys, or name:key pairs, separated by commas")
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise ValueError("must hold keys of ASCII characters without spaces, which a header can carry")
        if name in keys or key in keys.values():
            raise ValueError("must not hold a name or a key twice")
        keys[name] = key
    return keys


def _database_url(text: str) -> str:
    try:
        is_good = text == "none" or urlsplit(text).scheme in {"postgresql", "postgres"}
    except ValueError:  # its message may hold the password
        is_good = False
    if not is_good:
        raise ValueError("must be a postgresql:// URL or 'none'")
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
    "default_max_tokens": _integer(1, 1 << 24),
    "default_temperature": _number(0.0, 2.0),
    "request_timeout": _number(0.1, 86400.0),
    "heartbeat_interval": _number(0.0, 3600.0),
    "step_timeout": _number(0.1, 86400.0),
    "drain_timeout": _number(0.0, 3600.0),
    "database_url": _database_url,
    "db_pool_size": _integer(1, 1000),
    "spool_dir": _path,
    "log_prompts": _boolean,
    "api_keys": _api_keys,
    "max_body_bytes": _integer(1024, 1 << 32),
    "cors_origins": _origins,
    "log_level": _choice(LogLevel),
    "enable_metrics": _boolean,
    "pilotlight_home": _path,
}
