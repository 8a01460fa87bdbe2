from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.server import ServerProcess

MODEL = "smollm2-135m"


@pytest.fixture(scope="package")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client
