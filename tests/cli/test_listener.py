from __future__ import annotations

import socket

import pytest

from handler.cli.listener import bind, listener_address
from handler.errors import ConfigurationError


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_any_free_port_is_taken_for_0() -> None:
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert port > 0
        assert listener_address(listener) == f"http://127.0.0.1:{port}"
        with pytest.raises(ConnectionRefusedError):  # nobody is kept waiting while a model is prepared
            socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_an_ipv6_address_stands_in_brackets() -> None:
    with bind("::1", 0) as listener:
        assert listener_address(listener) == f"http://[::1]:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("host", "port", "key"),
    [("203.0.113.1", 0, "HOST"), ("no host of this name", 0, "HOST")],
)
def test_an_address_that_cannot_be_used_names_its_setting(host: str, port: int, key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        bind(host, port)
    assert caught.value.key == key
    assert f"{host}:{port}" in str(caught.value)


def test_a_port_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError) as caught:
        bind("127.0.0.1", 70000)
    assert caught.value.key == "PORT"


def test_a_port_in_use_is_the_ports_fault() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(ConfigurationError) as caught:
            bind("127.0.0.1", taken.getsockname()[1])
    assert caught.value.key == "PORT"
