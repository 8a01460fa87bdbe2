"""Tries the image: `python infra/image/try_image.py [--tag T] [--runs N] [--json]`. Exit code 1 if something is wrong.

Starts it some times, as a platform does; waits for the port and for the first token of a stream; asks a question; looks
who it runs as and what it may write; runs its health check; sends SIGTERM while it answers, and reads that answer to
its end. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Mapping

from build import TAG
from engines import Container, engine_here

_START_S = 120.0
_LOOK_S = 0.005
_NO_DATABASE = {"DATABASE_URL": "none"}


class ImageError(Exception):
    """The image is not what it should be."""


def main() -> None:
    """Start it so many times, and say what came of it."""
    parser = argparse.ArgumentParser(description="Tries the container image.")
    parser.add_argument("--tag", default=TAG)
    parser.add_argument("--runs", type=int, default=5, help="starts (5)")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    engine = engine_here()
    starts = []
    try:
        for number in range(args.runs):
            port = _free_port()
            began_s = time.monotonic()
            with engine.container(args.tag, {"PORT": str(port), **_NO_DATABASE}, port) as container:
                starts.append(_start(container, port, began_s))
                if number == 0:
                    _examine(container, port)
                _stop_while_it_answers(container, port)
    except ImageError as failure:
        raise SystemExit(f"wrong: {failure}") from None
    result = {name: statistics.median(start[name] for start in starts) for name in starts[0]}
    if args.json:
        json.dump({"tag": args.tag, "engine": type(engine).__name__, "medians": result, "starts": starts}, sys.stdout)
        print()
        return
    print(f"{args.tag} is right: {args.runs} starts, medians")
    for name, value in result.items():
        print(f"  {name:16} {value:.2f}")


def _start(container: Container, port: int, began_s: float) -> dict[str, float]:
    """Seconds from the engine's command until the port answers and until a stream's first text, and its own phases."""
    while not _is_alive(port):
        if container.has_ended:
            raise ImageError("it ended before it answered")
        if time.monotonic() - began_s > _START_S:
            raise ImageError(f"nothing answered within {_START_S:g} s")
        time.sleep(_LOOK_S)
    health_s = time.monotonic() - began_s
    with _stream(port, tokens=2) as events:
        next(events)
        first_token_s = time.monotonic() - began_s
    boot = json.loads(_get(port, "/startup"))
    return {"health_s": health_s, "first_token_s": first_token_s, "ready_s": boot["ready_s"]}


def _examine(container: Container, port: int) -> None:
    answer = json.loads(_post(port, {"messages": _question("What is the capital of France?"), "temperature": 0}))
    text = answer["choices"][0]["message"]["content"]
    if "Paris" not in text:
        raise ImageError(f"it does not know the capital of France: {text!r}")
    looks = {
        "it runs as root": ["python", "-c", "import os, sys; sys.exit(os.getuid() == 0)"],
        "its home cannot be written to": ["python", "-c", "open('/var/lib/pilotlight/tried', 'w').close()"],
        "its health check fails": ["python", "-P", "-m", "handler.healthcheck"],
        "a command of its own fails": ["pilotlight", "--version"],
    }
    for wrong, command in looks.items():
        done = container.execute(command)
        if done.returncode:
            raise ImageError(f"{wrong}: {done.stdout}{done.stderr}")
    if container.execute(["touch", "/opt/function/tried"]).returncode == 0:
        raise ImageError("its own code can be written to")


def _stop_while_it_answers(container: Container, port: int) -> None:
    """SIGTERM must reach the function, which must end its answers first."""
    with _stream(port, tokens=48) as events:
        next(events)
        container.terminate()
        if sum(1 for _ in events) < 8:
            raise ImageError("SIGTERM cut off an answer")
        code = container.wait()
    if code != 0:
        raise ImageError(f"SIGTERM ended it with {code}")


@contextlib.contextmanager
def _stream(port: int, tokens: int) -> Iterator[Iterator[str]]:
    """The texts of a streamed answer, as they come; it must end as a stream does."""
    body = {
        "messages": _question("Tell me about the sea."),
        "stream": True,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
    }
    connection, response = _open(port, body)
    with contextlib.closing(connection):
        yield _texts(response)


def _texts(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        data = line.decode().removeprefix("data: ").strip()
        if data == "[DONE]":
            return
        if data.startswith("{"):
            choices = json.loads(data)["choices"]
            if choices and choices[0]["delta"].get("content"):
                yield choices[0]["delta"]["content"]
    raise ImageError("a stream ended without [DONE]")


def _post(port: int, body: Mapping[str, object]) -> bytes:
    connection, response = _open(port, body)
    with contextlib.closing(connection):
        return response.read()


def _open(port: int, body: Mapping[str, object]) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
    headers = {"content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps({"model": "/model", **body}), headers)
    response = connection.getresponse()
    if response.status != http.HTTPStatus.OK:
        raise ImageError(f"{response.status}: {response.read().decode(errors='replace')}")
    return connection, response


def _get(port: int, path: str) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


def _is_alive(port: int) -> bool:
    try:
        return bool(_get(port, "/health"))
    except (OSError, http.client.HTTPException):
        return False


def _question(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
