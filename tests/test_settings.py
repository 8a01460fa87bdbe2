from __future__ import annotations

from pathlib import Path

import pytest

from handler.__main__ import read_environment
from handler.engine.attention import TILE
from handler.errors import ConfigurationError
from handler.settings import Settings, without_password

ROOT = Path(__file__).parent.parent

GOOD = [
    ("HOST", "0.0.0.0", "0.0.0.0"),
    ("PORT", "0", 0),
    ("MODEL_NAME", "org/model", "org/model"),
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
    ("DEFAULT_MAX_TOKENS", "7", 7),
    ("DEFAULT_TEMPERATURE", "0", 0.0),
    ("REQUEST_TIMEOUT", "1.5", 1.5),
    ("HEARTBEAT_INTERVAL", "0.5", 0.5),
    ("STEP_TIMEOUT", "0.5", 0.5),
    ("DRAIN_TIMEOUT", "0", 0.0),
    ("DATABASE_URL", "postgresql://u:p@h/d", "postgresql://u:p@h/d"),
    ("DATABASE_URL", "none", "none"),
    ("DB_POOL_SIZE", "2", 2),
    ("SPOOL_DIR", "/spool", Path("/spool")),
    ("LOG_PROMPTS", "Yes", True),
    ("LOG_PROMPTS", "off", False),
    ("API_KEYS", "alice:one, two", {"alice": "one", "key-2": "two"}),
    ("API_KEYS", "alice:sk:with:colons", {"alice": "sk:with:colons"}),
    ("MAX_BODY_BYTES", "2048", 2048),
    ("CORS_ORIGINS", "https://a.example, http://b.example:3000", ("https://a.example", "http://b.example:3000")),
    ("CORS_ORIGINS", "*", ("*",)),
    ("LOG_LEVEL", "DEBUG", "debug"),
    ("ENABLE_METRICS", "0", False),
    ("PILOTLIGHT_HOME", "/home-of-it", Path("/home-of-it")),
]

BAD = [
    ("PORT", "65536"),
    ("PORT", "http"),
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
    ("DEFAULT_MAX_TOKENS", "0"),
    ("DEFAULT_TEMPERATURE", "nan"),
    ("REQUEST_TIMEOUT", "0"),
    ("HEARTBEAT_INTERVAL", "-1"),
    ("STEP_TIMEOUT", "0"),
    ("DRAIN_TIMEOUT", "inf"),
    ("DATABASE_URL", "mysql://h/d"),
    ("DATABASE_URL", "postgresql://[h/d"),
    ("DB_POOL_SIZE", "0"),
    ("SPOOL_DIR", "~nobody-of-that-name/spool"),
    ("LOG_PROMPTS", "maybe"),
    ("API_KEYS", "alice:"),
    ("API_KEYS", "alice:one,alice:two"),
    ("API_KEYS", "alice:one,bob:one"),
    ("API_KEYS", "alice:clé"),
    ("API_KEYS", "alice:two words"),
    ("MAX_BODY_BYTES", "1"),
    ("CORS_ORIGINS", "https://a.example/"),
    ("CORS_ORIGINS", "a.example"),
    ("LOG_LEVEL", "loud"),
    ("ENABLE_METRICS", "2"),
    ("PILOTLIGHT_HOME", "~nobody-of-that-name"),
]

# HOST and MODEL_NAME are any text; what they name is looked up later.
FREE_TEXT = {"HOST", "MODEL_NAME"}


@pytest.mark.parametrize(("key", "text", "value"), GOOD)
def test_a_good_value_is_read(key: str, text: str, value: object) -> None:
    assert getattr(Settings.from_env({key: text}), key.lower()) == value


@pytest.mark.parametrize(("key", "text"), BAD)
def test_a_bad_value_names_its_key(key: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({key: text})
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: must ")


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
        ("DATABASE_URL", "postgresql://u:hunter2@h\u2100st/d"),  # urlsplit's own message holds what stands before the @
    ],
)
def test_secrets_stay_out_of_messages(key: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings.from_env({key: text})
    assert "hunter2" not in str(caught.value)


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
    settings = Settings.from_env({"API_KEYS": "alice:hunter2", "DATABASE_URL": "postgresql://u:hunter2@h/d"})
    shown = settings.public()
    assert set(shown) == {field.upper() for field in Settings.__struct_fields__}
    assert shown["API_KEYS"] == ["alice"]
    assert shown["DATABASE_URL"] == "postgresql://u:***@h/d"
    assert "hunter2" not in str(shown)


def test_empty_counts_as_unset_and_spaces_do_not_matter() -> None:
    settings = Settings.from_env({"PORT": " 81 ", "HOST": "", "DATABASE_URL": "  "})
    assert (settings.port, settings.host, settings.database_url) == (81, "127.0.0.1", None)


def test_the_spool_lies_in_the_home_unless_told_otherwise() -> None:
    assert Settings.from_env({"PILOTLIGHT_HOME": "/a"}).spool_dir == Path("/a/spool")
    assert Settings.from_env({"PILOTLIGHT_HOME": "/a", "SPOOL_DIR": "/b"}).spool_dir == Path("/b")


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
