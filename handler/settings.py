"""All settings, read once from an environment mapping. A value that cannot work raises, naming its key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import platformdirs

from handler import setting_values
from handler.errors import ConfigurationError
from handler.keys import join_keys, parse_keys, read_keys

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["auto", "none", "int8", "fp8"]
LogLevel = Literal["debug", "info", "warning", "error"]

_SECRETS = frozenset(("API_KEYS", "DATABASE_URL", "REDIS_URL", "ENGINE_URL", "ENGINE_API_KEY"))

# A password may hold any character but is told from a port by the @ behind it.
_USER_PASSWORD = re.compile(r"(?<=//)([^:@/?#]*):(?![0-9]*(?:[/?#,]|$)).*@")
_QUERY_PASSWORD = re.compile(r"([?&](?:ssl)?password=)[^&#]*")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the function runs with. Each field is the environment variable of the same name in capitals.

    Attributes:
        host: address to listen on.
        port: TCP port; 0 takes a free one.
        model_name: `smollm2-135m` (embedded), a hub id, a directory or a `.gguf` file.
        engine_url: an OpenAI-compatible server that generates in place of an engine here, up to and including `/v1`.
        engine_api_key: the key that it asks for.
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
        idle_timeout: seconds without a request after which the function ends by itself; None: never.
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
        image: what the boots of this instance are recorded under, such as the container image's name and tag.
        pilotlight_home: snapshots, spool and the embedded database live below it.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    model_name: str = "smollm2-135m"
    engine_url: str | None = None
    engine_api_key: str | None = None
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
    idle_timeout: float | None = None
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
    image: str | None = None
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
            elif field in {"database_url", "redis_url", "engine_url"} and value is not None:
                value = without_password(value)
            elif field == "engine_api_key" and value is not None:
                value = "***"
            elif isinstance(value, Path):
                value = str(value)
            shown[field.upper()] = value
        return shown


def without_password(url: str) -> str:
    """The URL with its password, if it has one, replaced by stars."""
    return _QUERY_PASSWORD.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", url))


def _shown(key: str, value: str) -> str:
    return "a secret" if key in _SECRETS else repr(value)


def _add_keys_of_file(values: dict[str, object]) -> None:
    path, keys = values.get("api_keys_file"), values.get("api_keys", {})
    if path is None:
        return
    assert isinstance(path, Path)
    assert isinstance(keys, dict)
    try:
        values["api_keys"] = join_keys(keys, read_keys(path, taken=keys))
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


_PARSERS: dict[str, Callable[[str], object]] = {
    "host": str,
    "port": setting_values.integer(0, 65535),
    "model_name": str,
    "engine_url": setting_values.http_url,
    "engine_api_key": str,
    "model_device": setting_values.device,
    "torch_dtype": setting_values.choice(Dtype),
    "quantization": setting_values.choice(Quantization),
    "max_batch_size": setting_values.integer(1, 4096),
    "max_model_len": setting_values.integer(16, 1 << 24),
    "prefill_chunk_tokens": setting_values.integer(128, 1 << 20),
    "kv_cache_fraction": setting_values.number(0.01, 0.98),
    "speculation_tokens": setting_values.integer(0, 64),
    "max_queued_requests": setting_values.integer(0, 1 << 20),
    "max_queued_tokens": setting_values.integer(0, 1 << 40),
    "queue_timeout": setting_values.number(0.1, 86400.0),
    "default_max_tokens": setting_values.integer(1, 1 << 24),
    "default_temperature": setting_values.number(0.0, 2.0),
    "body_timeout": setting_values.number(0.1, 3600.0),
    "request_timeout": setting_values.number(0.1, 86400.0),
    "heartbeat_interval": setting_values.number(0.0, 3600.0),
    "step_timeout": setting_values.number(0.1, 86400.0),
    "drain_timeout": setting_values.number(0.0, 3600.0),
    "idle_timeout": setting_values.number(0.1, 30 * 86400.0),
    "database_url": setting_values.database_url,
    "db_pool_size": setting_values.integer(1, 1000),
    "spool_dir": setting_values.path,
    "spool_max_bytes": setting_values.integer(1 << 20, 1 << 50),
    "log_prompts": setting_values.boolean,
    "api_keys": parse_keys,
    "api_keys_file": setting_values.path,
    "keyless_paths": setting_values.keyless_paths,
    "rate_limit_requests_per_minute": setting_values.rate_limits,
    "rate_limit_tokens_per_minute": setting_values.rate_limits,
    "redis_url": setting_values.redis_url,
    "max_body_bytes": setting_values.integer(1024, 1 << 32),
    "cors_origins": setting_values.origins,
    "log_level": setting_values.choice(LogLevel),
    "enable_metrics": setting_values.boolean,
    "image": str,
    "pilotlight_home": setting_values.path,
}
