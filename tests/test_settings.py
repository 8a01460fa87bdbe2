from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from handler.__main__ import read_environment
from handler.engine.attention import TILE
from handler.errors import ConfigurationError
from handler.keys import digest
from handler.settings import Settings, without_password

ROOT = Path(__file__).parent.parent

KEYS_FILE = ROOT / "tests" / "api_keys.txt"

GOOD = [
    ("HOST", "0.0.0.0", "0.0.0.0"),
    ("PORT", "0", 0),
    ("MODEL_NAME", "org/model", "org/model"),
    ("ENGINE_URL", "http://vllm:8000/v1", "http://vllm:8000/v1"),
    ("ENGINE_API_KEY", "sk-upstream", "sk-upstream"),
    ("MODEL_DEVICE", "cuda:1", "cuda:1"),
    ("MODEL_DEVICE", "cuda:2, cuda:0", "cuda:2,cuda:0"),
    ("TORCH_DTYPE", "BFloat16", "bfloat16"),
    ("QUANTIZATION", "int8", "int8"),
    ("QUANTIZATION", "FP8", "fp8"),
    ("MAX_BATCH_SIZE", "3", 3),
    ("MAX_MODEL_LEN", "2048", 2048),
    ("PREFILL_CHUNK_TOKENS", "512", 512),
    ("KV_CACHE_FRACTION", "0.5", 0.5),
    ("SPECULATION_TOKENS", "6", 6),
    ("MAX_QUEUED_REQUESTS", "0", 0),
    ("MAX_QUEUED_TOKENS", "0", 0),
    ("QUEUE_TIMEOUT", "2.5", 2.5),
    ("DEFAULT_MAX_TOKENS", "7", 7),
    ("DEFAULT_TEMPERATURE", "0", 0.0),
    ("BODY_TIMEOUT", "2.5", 2.5),
    ("REQUEST_TIMEOUT", "1.5", 1.5),
    ("HEARTBEAT_INTERVAL", "0.5", 0.5),
    ("STEP_TIMEOUT", "0.5", 0.5),
    ("DRAIN_TIMEOUT", "0", 0.0),
    ("IDLE_TIMEOUT", "300", 300.0),
    ("DATABASE_URL", "postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    ("DATABASE_URL", "none", "none"),
    ("DB_POOL_SIZE", "2", 2),
    ("SPOOL_DIR", "/spool", Path("/spool")),
    ("SPOOL_MAX_BYTES", "1048576", 1 << 20),
    ("LOG_PROMPTS", "Yes", True),
    ("LOG_PROMPTS", "off", False),
    ("API_KEYS", "alice:one, two", {"alice": digest("one"), "key-2": digest("two")}),
    ("API_KEYS", "alice:sk:with:colons", {"alice": digest("sk:with:colons")}),
    ("API_KEYS", f"alice:sha256:{'0' * 64}, sha256:{'1F' * 32}", {"alice": bytes(32), "key-2": b"\x1f" * 32}),
    ("API_KEYS_FILE", str(KEYS_FILE), KEYS_FILE),
    ("RATE_LIMIT_REQUESTS_PER_MINUTE", "60", {"*": 60}),
    ("RATE_LIMIT_TOKENS_PER_MINUTE", "1000000", {"*": 1000000}),
    ("REDIS_URL", "rediss://u:p@h:1/0", "rediss://u:p@h:1/0"),
    ("REDIS_URL", "unix:///run/redis.sock", "unix:///run/redis.sock"),
    ("KEYLESS_PATHS", "none", ()),
    ("KEYLESS_PATHS", "/health, /docs", ("/health", "/docs")),
    ("MAX_BODY_BYTES", "2048", 2048),
    ("CORS_ORIGINS", "https://a.example, http://b.example:3000", ("https://a.example", "http://b.example:3000")),
    ("CORS_ORIGINS", "*", ("*",)),
    ("LOG_LEVEL", "DEBUG", "debug"),
    ("ENABLE_METRICS", "0", False),
    ("IMAGE", "pilotlight:1", "pilotlight:1"),
    ("PILOTLIGHT_HOME", "/home-of-it", Path("/home-of-it")),
]

BAD = [
    ("PORT", "65536"),
    ("PORT", "http"),
    ("ENGINE_URL", "vllm:8000"),
    ("ENGINE_URL", "ftp://vllm/v1"),
    ("ENGINE_URL", "http:///v1"),
    ("ENGINE_URL", "http://vllm/v1?key=1"),
    ("MODEL_DEVICE", "tpu"),
    ("MODEL_DEVICE", "cuda:"),
    ("MODEL_DEVICE", "cpu:0"),
    ("MODEL_DEVICE", "cuda:01"),
    ("MODEL_DEVICE", "cuda:0,cpu"),
    ("MODEL_DEVICE", "cuda:0,"),
    ("MODEL_DEVICE", "cuda,cuda:1"),
    ("MODEL_DEVICE", "cuda:1,cuda:1"),
    ("TORCH_DTYPE", "int8"),
    ("QUANTIZATION", "int3"),
    ("MAX_BATCH_SIZE", "0"),
    ("MAX_MODEL_LEN", "-1"),
    ("PREFILL_CHUNK_TOKENS", "1"),
    ("KV_CACHE_FRACTION", "1.5"),
    ("SPECULATION_TOKENS", "65"),
    ("MAX_QUEUED_REQUESTS", "1.0"),
    ("MAX_QUEUED_TOKENS", "-1"),
    ("QUEUE_TIMEOUT", "0"),
    ("DEFAULT_MAX_TOKENS", "0"),
    ("DEFAULT_TEMPERATURE", "nan"),
    ("BODY_TIMEOUT", "0"),
    ("REQUEST_TIMEOUT", "0"),
    ("HEARTBEAT_INTERVAL", "-1"),
    ("STEP_TIMEOUT", "0"),
    ("DRAIN_TIMEOUT", "inf"),
    ("IDLE_TIMEOUT", "0"),
    ("DATABASE_URL", "mysql://h/d"),
    ("DATABASE_URL", "postgresql://[h/d"),
    ("DB_POOL_SIZE", "0"),
    ("SPOOL_DIR", "~nobody-of-that-name/spool"),
    ("SPOOL_MAX_BYTES", "1048575"),
    ("LOG_PROMPTS", "maybe"),
    ("API_KEYS", ","),
    ("API_KEYS", "alice:"),
    ("API_KEYS", "alice:one,alice:two"),
    ("API_KEYS", "alice:one,bob:one"),
    ("API_KEYS", "alice:clé"),
    ("API_KEYS", "alice:two words"),
    ("API_KEYS", "sha256:alice"),
    ("API_KEYS", "alice:sha256:"),
    ("API_KEYS", f"alice:sha256:{'0' * 63}"),
    ("API_KEYS", f"one:1,two:sha256:{digest('1').hex()}"),
    ("API_KEYS_FILE", "/nowhere/keys"),
    ("API_KEYS_FILE", "/dev/null"),
    ("API_KEYS_FILE", "/"),
    ("RATE_LIMIT_REQUESTS_PER_MINUTE", "0"),
    ("RATE_LIMIT_REQUESTS_PER_MINUTE", ","),
    ("RATE_LIMIT_REQUESTS_PER_MINUTE", "60, 70"),
    ("RATE_LIMIT_REQUESTS_PER_MINUTE", ":60"),
    ("RATE_LIMIT_REQUESTS_PER_MINUTE", "60,alice:600"),
    ("RATE_LIMIT_TOKENS_PER_MINUTE", "many"),
    ("RATE_LIMIT_TOKENS_PER_MINUTE", "alice:"),
    ("REDIS_URL", "localhost:6379"),
    ("REDIS_URL", "redis://h:port"),
    ("KEYLESS_PATHS", "/v1/models"),
    ("KEYLESS_PATHS", "health"),
    ("KEYLESS_PATHS", "none,/health"),
    ("MAX_BODY_BYTES", "1"),
    ("CORS_ORIGINS", "https://a.example/"),
    ("CORS_ORIGINS", "a.example"),
    ("LOG_LEVEL", "loud"),
    ("ENABLE_METRICS", "2"),
    ("PILOTLIGHT_HOME", "~nobody-of-that-name"),
]

# HOST and MODEL_NAME are any text; what they name is looked up later.
FREE_TEXT = {"ENGINE_API_KEY", "IMAGE", "HOST", "MODEL_NAME"}


@pytest.mark.parametrize(("key", "text", "value"), GOOD)
def test_a_good_value_is_read(key: str, text: str, value: object) -> None:
    assert getattr(Settings.from_env({key: text}), key.lower()) == value


@pytest.mark.parametrize(("key", "text"), BAD)
def test_a_bad_value_names_its_key(key: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({key: text})
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: must ")


def test_keys_from_a_file_join_the_others() -> None:
    keys = Settings.from_env({"API_KEYS": "alice:one", "API_KEYS_FILE": str(KEYS_FILE)}).api_keys
    assert keys == {"alice": digest("one"), "bob": digest("sk-bob"), "carol": bytes(32), "key-3": digest("sk-third")}


def test_keys_without_names_come_from_both_places(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("three\nfour\n")
    keys = Settings.from_env({"API_KEYS": "one,two", "API_KEYS_FILE": str(path)}).api_keys
    assert keys == {f"key-{number}": digest(key) for number, key in enumerate(["one", "two", "three", "four"], start=1)}


@pytest.mark.parametrize(("first", "names"), [("#alice:one", {"bob"}), ("alice:one", {"alice", "bob"})])
def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path, first: str, names: set[str]) -> None:
    path = tmp_path / "keys"
    path.write_text(f"{first}\r\nbob:two\r\n", encoding="utf-8-sig")
    assert Settings.from_env({"API_KEYS_FILE": str(path)}).api_keys.keys() == names


@pytest.mark.parametrize(
    ("contents", "environ"),
    [
        (b"bob:hunter2\nbob:hunter3", {}),
        (b"bob:hunter2", {"API_KEYS": "bob:one"}),
        (b"bob:hunter2", {"API_KEYS": "alice:hunter2"}),
        (b"bob:hunter2 hunter2", {}),
        (b"# bob:hunter2\n\n", {}),
        (b"hunter2\xff", {}),
    ],
)
def test_a_bad_file_of_keys_is_named_and_not_quoted(tmp_path: Path, contents: bytes, environ: dict[str, str]) -> None:
    path = tmp_path / "keys"
    path.write_bytes(contents)
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({"API_KEYS_FILE": str(path)} | environ)
    assert caught.value.key == "API_KEYS_FILE"
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


def test_a_key_can_have_a_limit_of_its_own() -> None:
    environ = {"API_KEYS": "alice:one,two", "RATE_LIMIT_TOKENS_PER_MINUTE": "100, alice:2000,key-2:5"}
    limits = Settings.from_env(environ).rate_limit_tokens_per_minute
    assert limits == {"*": 100, "alice": 2000, "key-2": 5}


def test_every_setting_is_covered_here() -> None:
    keys = {field.upper() for field in Settings.__struct_fields__}
    assert {key for key, _, _ in GOOD} == keys
    assert {key for key, _ in BAD} == keys - FREE_TEXT


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("API_KEYS", "alice:hunter2,bob:hunter2"),
        ("API_KEYS", "hunter2 hunter2"),
        ("DATABASE_URL", "mysql://u:hunter2@h/d"),
        ("REDIS_URL", "redis://:hunter2@h:port"),
        ("ENGINE_URL", "ftp://u:hunter2@h/v1"),
        ("REDIS_URL", "redis://:hunter2@h\u2100st"),
        ("DATABASE_URL", "postgresql://u:hunter2@h\u2100st/d"),  # urlsplit's own message holds what stands before the @
    ],
)
def test_secrets_stay_out_of_messages(key: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({key: text})
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("none", "none"),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://user@host/db?application_name=a", "postgresql://user@host/db?application_name=a"),
        ("postgresql://user:hunter2@host:1/db?x=y", "postgresql://user:***@host:1/db?x=y"),
        ("postgresql://user:12345@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunter2#/?@@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:hunter2@h1:1,h2:2/db", "postgresql://user:***@h1:1,h2:2/db"),
        ("postgresql://host/db?user=u&password=hunter2&x=y", "postgresql://host/db?user=u&password=***&x=y"),
    ],
)
def test_passwords_are_masked(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_public_shows_every_setting_and_no_secret() -> None:
    environ = {
        "API_KEYS": "alice:hunter2",
        "DATABASE_URL": "postgresql://u:hunter2@h/d",
        "REDIS_URL": "redis://:hunter2@h",
        "ENGINE_URL": "http://u:hunter2@h/v1",
        "ENGINE_API_KEY": "hunter2",
    }
    settings = Settings.from_env(environ)
    shown = settings.public()
    assert set(shown) == {field.upper() for field in Settings.__struct_fields__}
    assert shown["API_KEYS"] == ["alice"]
    assert (shown["DATABASE_URL"], shown["REDIS_URL"]) == ("postgresql://u:***@h/d", "redis://:***@h")
    assert "hunter2" not in f"{shown} {settings!r} {settings}"
    assert settings.api_keys["alice"].hex() not in f"{shown} {settings!r}"


def test_empty_counts_as_unset_and_spaces_do_not_matter() -> None:
    settings = Settings.from_env({"PORT": " 81 ", "HOST": "", "DATABASE_URL": "  "})
    assert (settings.port, settings.host, settings.database_url) == (81, "127.0.0.1", None)


def test_the_spool_lies_in_the_home_unless_told_otherwise() -> None:
    settings = Settings.from_env({"PILOTLIGHT_HOME": "/a"})
    assert settings.spool_directory == Path("/a/spool")
    assert settings.public()["SPOOL_DIR"] == "/a/spool"
    assert Settings.from_env({"PILOTLIGHT_HOME": "/a", "SPOOL_DIR": "/b"}).spool_directory == Path("/b")


@pytest.mark.parametrize(
    ("environ", "keeps"),
    [
        ({}, True),
        ({"DATABASE_URL": "none"}, True),
        ({"DATABASE_URL": "postgresql://db/log"}, False),
        ({"DATABASE_URL": "postgresql://db/log", "SPOOL_DIR": "/volume"}, True),
        ({"DATABASE_URL": "postgresql://db/log", "SPOOL_DIR": "/a/spool"}, True),
    ],
)
def test_a_spool_is_kept_where_somebody_named_it_or_the_database_lies_beside_it(
    environ: dict[str, str], keeps: bool
) -> None:
    assert Settings.from_env({"PILOTLIGHT_HOME": "/a"} | environ).keeps_spool is keeps


def test_the_environment_wins_over_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=1  # a comment\nHOST=from-file\nMODEL_NAME\n")
    monkeypatch.setenv("PORT", "2")
    monkeypatch.delenv("HOST", raising=False)
    environ = read_environment(dotenv)
    assert (environ["PORT"], environ["HOST"]) == ("2", "from-file")
    assert "MODEL_NAME" not in environ
    assert "HOST" not in read_environment(tmp_path / "missing")


def test_a_dotenv_that_is_no_text_is_a_configuration_error(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"PORT=\xff\n")
    with pytest.raises(ConfigurationError) as caught:
        read_environment(dotenv)
    assert caught.value.key == str(dotenv)


def test_the_example_file_shows_every_setting_with_its_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()[1:]
    keys = [line.removeprefix("# ").partition("=")[0] for line in lines]
    assert sorted(keys) == sorted(field.upper() for field in Settings.__struct_fields__)
    dotenv = tmp_path / ".env"
    dotenv.write_text("\n".join(line.removeprefix("# ") for line in lines))
    for key in keys:
        monkeypatch.delenv(key, raising=False)
    environ = {key: value for key, value in read_environment(dotenv).items() if key in keys}
    assert Settings.from_env(environ) == Settings.from_env({})


def test_a_chunk_of_prompt_holds_a_tile_at_least() -> None:
    assert Settings.from_env({"PREFILL_CHUNK_TOKENS": str(TILE)}).prefill_chunk_tokens == TILE
    with pytest.raises(ConfigurationError):
        Settings.from_env({"PREFILL_CHUNK_TOKENS": str(TILE - 1)})
