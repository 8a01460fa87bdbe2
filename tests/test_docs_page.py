"""/docs in a real browser, where there is one: what its policy forbids shows on no other test."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from handler.contract import ENDPOINTS
from handler.engine.snapshot import Snapshot
from tests.asgi import Application
from tests.server import ServerProcess

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium (Debian: apt-get install chromium)")
def test_a_browser_shows_every_endpoint_and_complains_of_nothing(tiny_served: Snapshot, tmp_path: Path) -> None:
    assert BROWSER is not None
    environ = {
        "PILOTLIGHT_HOME": str(tmp_path / "home"),
        "MODEL_NAME": str(tiny_served.directory),
        "MODEL_DEVICE": "cpu",
        "DATABASE_URL": "none",
        "API_KEYS": "sk-one",
        "KEYLESS_PATHS": "/docs,/openapi.json",
    }
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr"]
    with ServerProcess(environ) as server:
        shown = subprocess.run(
            [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom",
             f"{server.address}/docs"],
            capture_output=True,
            text=True,
            check=True,
            timeout=90,
        )  # fmt: skip
    complaints = [line for line in shown.stderr.splitlines() if ":CONSOLE" in line]
    assert not complaints, complaints
    paths = re.findall(r'opblock-summary-path" data-path="([^"]+)"', shown.stdout)
    assert paths == [endpoint.path for endpoint in ENDPOINTS]


async def test_the_page_allows_nothing_but_itself(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        headers = (await application.client.get("/docs")).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy.pop("script-src").startswith("'self' 'sha256-")
        assert policy == {
            "default-src": "'none'",
            "style-src": "'self'",
            "img-src": "'self' data:",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
        }
        assert (headers["referrer-policy"], headers["x-frame-options"]) == ("no-referrer", "DENY")


async def test_no_part_of_the_page_is_taken_for_another_type(tiny_served: Snapshot, tmp_path: Path) -> None:
    async with Application(tiny_served, tmp_path) as application:
        for path in ("/docs", "/docs/static/swagger-ui.css", "/docs/static/swagger-ui-bundle.js"):
            response = await application.client.get(path)
            assert (response.status_code, response.headers["x-content-type-options"]) == (200, "nosniff")
