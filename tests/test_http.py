"""What only shows on a socket: bodies in pieces, connections that go on after an error, requests in a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest

from tests.server import DEADLINE_S, ServerProcess

PATH = "/v1/completions"
BODY = b'{"model": "smollm2-135m", "prompt": "1, 2,", "temperature": 0, "max_tokens": 2}'
LARGE = 4 * 1024 * 1024  # MAX_BODY_BYTES by default


class Connection:
    """A connection on which the test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response, which must have a length."""
        async with asyncio.timeout(DEADLINE_S):
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:-2])
            body = await self._reader.readexactly(int(headers["content-length"]))
            return int(head[0].split()[1]), headers, body

    async def interim(self) -> bytes:
        """The next line."""
        async with asyncio.timeout(DEADLINE_S):
            return await self._reader.readuntil(b"\r\n\r\n")


@pytest.fixture
async def connection(server: ServerProcess) -> AsyncIterator[Connection]:
    host, port = server.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield Connection(reader, writer)
    writer.close()
    await writer.wait_closed()


def head(*lines: str, path: str = PATH, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *lines, "", ""]).encode()


async def test_a_body_may_come_byte_by_byte(connection: Connection) -> None:
    await connection.write(head(f"content-length: {len(BODY)}"))
    for index in range(len(BODY)):
        await connection.write(BODY[index : index + 1])
        await asyncio.sleep(0)
    status, _, body = await connection.response()
    assert status == 200
    assert orjson.loads(body)["choices"][0]["text"]


async def test_a_chunked_body_is_a_body(connection: Connection) -> None:
    await connection.write(head("transfer-encoding: chunked"))
    for piece in (BODY[:10], BODY[10:]):
        await connection.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    await connection.write(b"0\r\n\r\n")
    assert (await connection.response())[0] == 200


async def test_a_body_announced_too_large_is_refused_before_it_comes(connection: Connection) -> None:
    await connection.write(head(f"content-length: {LARGE + 1}", "expect: 100-continue"))
    status, _, body = await connection.response()
    assert status == 413
    assert orjson.loads(body)["error"]["code"] == "body_too_large"


async def test_a_body_that_grows_too_large_is_refused_on_the_way(connection: Connection) -> None:
    await connection.write(head("transfer-encoding: chunked"))
    piece = b" " * 65536
    for _ in range(LARGE // len(piece) + 1):
        await connection.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    status, _, body = await connection.response()
    assert status == 413
    assert orjson.loads(body)["error"]["code"] == "body_too_large"


async def test_who_asks_may_continue(connection: Connection) -> None:
    await connection.write(head(f"content-length: {len(BODY)}", "expect: 100-continue"))
    assert (await connection.interim()).startswith(b"HTTP/1.1 100 ")
    await connection.write(BODY)
    assert (await connection.response())[0] == 200


@pytest.mark.parametrize(
    ("line", "status"), [("content-type: text/plain", 415), ("content-type: application/json; charset=utf-8", 400)]
)
async def test_a_connection_goes_on_after_an_error_with_a_body_unread(
    connection: Connection, line: str, status: int
) -> None:
    """The rest of a refused body must not be read as the next request."""
    refused = b"x" * 200_000
    await connection.write(head(line, f"content-length: {len(refused)}"))
    await connection.write(refused[:100_000])
    await connection.write(refused[100_000:])
    assert (await connection.response())[0] == status
    await connection.write(head(f"content-length: {len(BODY)}") + BODY)
    assert (await connection.response())[0] == 200
    await connection.write(head(method="GET", path="/nowhere"))
    assert (await connection.response())[0] == 404
    await connection.write(head(method="GET", path="/health"))
    assert (await connection.response())[0] == 200


async def test_requests_sent_in_a_row_are_answered_in_a_row(connection: Connection) -> None:
    request = head(f"content-length: {len(BODY)}", "x-request-id: %s") + BODY
    await connection.write(request.replace(b"%s", b"one") + request.replace(b"%s", b"two"))
    ids = [(await connection.response())[1]["x-request-id"] for _ in range(2)]
    assert ids == ["one", "two"]


async def test_an_unknown_path_may_have_a_body(connection: Connection) -> None:
    await connection.write(head(f"content-length: {len(BODY)}", path="/v1/moderations") + BODY)
    status, headers, body = await connection.response()
    assert status == 404
    assert headers["x-request-id"]
    assert orjson.loads(body)["error"]["message"] == "Not Found: POST /v1/moderations"


async def test_a_client_that_says_nothing_does_not_stop_others(server: ServerProcess, connection: Connection) -> None:
    await connection.write(head("content-length: 100"))
    async with httpx.AsyncClient(base_url=server.address) as client:
        assert (await client.post(PATH, content=BODY, timeout=DEADLINE_S)).status_code == 200
        assert (await client.get("/health")).status_code == 200
