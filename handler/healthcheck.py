"""`python -m handler.healthcheck`: exit code 0 if the function in this container is alive, for images without curl.

Asks `/health` of PORT on the loopback, and imports no more than that takes: it is run every few seconds.
"""

from __future__ import annotations

import http.client
import os
import sys

_TIMEOUT_S = 4.0
_DEFAULT_PORT = "8000"


def main() -> int:
    """Ask, and say what was wrong."""
    port = os.environ.get("PORT") or _DEFAULT_PORT
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}", file=sys.stderr)  # noqa: T201  (for whoever inspects the container)
        return 1
    finally:
        connection.close()
    print(body)  # noqa: T201
    return 0 if response.status == http.HTTPStatus.OK else 1


if __name__ == "__main__":
    sys.exit(main())
