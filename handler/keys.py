"""API keys as settings have them: by name, and from the moment they are read as SHA-256 digests only.

A key is long and random (`pilotlight key` makes one), so that its digest needs no salt and no slow hash.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import secrets
from collections.abc import Collection, Iterable
from pathlib import Path

_DIGEST_MARK = "sha256"
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")


def new_key() -> str:
    """A key that nobody has: 256 random bits."""
    return f"sk-{secrets.token_urlsafe(32)}"


def digest(key: str) -> bytes:
    """What is kept of a key. Whatever a header may hold can be asked for."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def shown_digest(key: str) -> str:
    """The key's digest as settings take it in place of the key."""
    return f"{_DIGEST_MARK}:{digest(key).hex()}"


def parse_keys(text: str) -> dict[str, bytes]:
    """Digests by name from `key`, `name:key`, `sha256:HEX` or `name:sha256:HEX`, separated by commas.

    Raises:
        ValueError: another form, no key at all, or a name or a key twice; the message repeats none of it.
    """
    keys = _parse_items(text.split(","))
    if not keys:
        raise ValueError("must hold a key")  # `,` is what is left of two variables that nobody set
    return keys


def read_keys(path: Path, taken: Collection[str] = ()) -> dict[str, bytes]:
    """Digests by name from a file with one of these forms a line; empty lines and those behind a # do not count.

    Keys without a name get none of those that are `taken`.

    Raises:
        ValueError: as `parse_keys`, or the file cannot be read, or holds no key.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # a mark before the first # or name is no part of it
    except OSError as error:
        raise ValueError(f"must be a file that can be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("must be a text file") from None
    keys = _parse_items((line for line in lines if not line.lstrip().startswith("#")), taken)
    if not keys:
        raise ValueError("must hold a key")  # an empty file must not let everybody in
    return keys


def join_keys(first: dict[str, bytes], second: dict[str, bytes]) -> dict[str, bytes]:
    """All keys.

    Raises:
        ValueError: a name or a key is in both.
    """
    if first.keys() & second.keys() or {*first.values()} & {*second.values()}:
        raise ValueError("must not hold a name or a key that API_KEYS holds")
    return first | second


def _parse_items(items: Iterable[str], taken: Collection[str] = ()) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    stripped = (item.strip() for item in items)
    for number, item in enumerate(filter(None, stripped), start=1):
        names = (f"key-{free}" for free in itertools.count(number))
        name, kept = _parse_item(item, next(name for name in names if name not in keys and name not in taken))
        if name in keys or kept in keys.values():
            raise ValueError("must not hold a name or a key twice")
        keys[name] = kept
    return keys


def _parse_item(item: str, free_name: str) -> tuple[str, bytes]:
    name, separator, key = item.partition(":")
    if not separator or name == _DIGEST_MARK:
        name, key = free_name, item
    if not name or not key:
        raise ValueError("must be keys, or name:key pairs, separated by commas")
    mark, separator, hexadecimal = key.partition(":")
    if separator and mark == _DIGEST_MARK:
        if not _DIGEST.fullmatch(hexadecimal):
            raise ValueError("must hold 64 hexadecimal digits behind each 'sha256:'")
        return name, bytes.fromhex(hexadecimal)
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("must hold keys of ASCII characters without spaces, which a header can carry")
    return name, digest(key)
