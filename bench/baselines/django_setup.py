"""Django's settings, by Django's own deployment checklist. `docs/baselines.md` names the pages.

An API with keys has no use for sessions, users, messages and CSRF tokens, so there is no middleware; the views set
Content-Length, which `CommonMiddleware` would do.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

from bench.baselines.fortunes import TEMPLATES
from bench.baselines.greetings import NUM_CONNECTIONS

_NAMES = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}


def set_up(urls: Sequence[Any], database: str | None, max_body_bytes: int, *, with_pool: bool) -> None:
    """Configure Django for this process, once.

    Args:
        urls: the URL patterns.
        database: URL, None where there is none.
        max_body_bytes: largest request body.
        with_pool: share connections in a pool, as is advised on ASGI; otherwise each thread keeps one for good.
    """
    databases = {} if database is None else {"default": _database(database, with_pool=with_pool)}
    settings.configure(
        DEBUG=False,
        SECRET_KEY=secrets.token_hex(),
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        ROOT_URLCONF=tuple(urls),
        INSTALLED_APPS=[],
        MIDDLEWARE=[],
        DATABASES=databases,
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "DIRS": [TEMPLATES],  # without DEBUG, Django puts the cached loader around them
            }
        ],
        DATA_UPLOAD_MAX_MEMORY_SIZE=max_body_bytes,
        LOGGING_CONFIG=None,
        USE_I18N=False,
        USE_TZ=True,
    )
    django.setup()


def _database(url: str, *, with_pool: bool) -> dict[str, Any]:
    given = conninfo_to_dict(url)
    named = {_NAMES[key]: str(value) for key, value in given.items() if key in _NAMES}
    options: dict[str, Any] = {key: value for key, value in given.items() if key not in _NAMES}
    if with_pool:
        options["pool"] = {"min_size": NUM_CONNECTIONS, "max_size": NUM_CONNECTIONS}
    lifetime_s = 0 if with_pool else None  # None: for good
    return {"ENGINE": "django.db.backends.postgresql", "OPTIONS": options, "CONN_MAX_AGE": lifetime_s, **named}
