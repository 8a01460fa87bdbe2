from __future__ import annotations

import pytest

from handler.requestlog.failure import describe_failure


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:hunter2@host/db",
        "postgresql://user:hunter%32@host/db",
        "postgresql://user@host/db?password=hunter2",
    ],
)
def test_the_password_is_masked_wherever_it_stands(url: str):
    error = OSError(f"cannot use {url}: hunter2 is wrong for user")
    text = describe_failure(error, url)
    assert "hunter" not in text
    assert "is wrong for user" in text


def test_a_failure_is_one_line_and_never_empty():
    assert describe_failure(OSError("a\nb"), None) == "OSError: a b"
    assert describe_failure(TimeoutError(), "postgresql://h/d") == "TimeoutError: no answer in time"


def test_what_is_no_url_is_not_repeated():
    url = "postgresql://user:hunter2@[host/db"
    assert "hunter2" not in describe_failure(ValueError(f"bad {url}"), url)
