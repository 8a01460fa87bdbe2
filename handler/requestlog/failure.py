"""What may be said about a database that failed. Pure; any thread."""

from __future__ import annotations

from urllib.parse import parse_qs, unquote, urlsplit


def describe_failure(error: BaseException, url: str | None) -> str:
    """One line for a log or a screen about `error`, met while using `url`, without the password in it."""
    reason = " ".join(str(error).split()) or "no answer in time"
    text = f"{type(error).__name__}: {reason}"
    if url is None:
        return text
    try:
        parts = urlsplit(url)
        secrets = {parts.password, unquote(parts.password or ""), *parse_qs(parts.query).get("password", [])}
    except ValueError:  # not a URL: nothing in it can be told from a password
        return f"{type(error).__name__}: the database URL cannot be read"
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
