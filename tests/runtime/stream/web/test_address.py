"""Where the page is served."""

from __future__ import annotations

import errno
import socket

import pytest

from camscribe.runtime.errors import OptionError, SinkError
from camscribe.runtime.stream.web import address as module
from camscribe.runtime.stream.web.address import Address, is_loopback, join, reachable


@pytest.mark.parametrize(
    ("text", "host", "port", "local"),
    [
        ("8080", "127.0.0.1", 8080, True),
        (" 0 ", "127.0.0.1", 0, True),
        ("localhost:80", "localhost", 80, True),
        ("0.0.0.0:8080", "0.0.0.0", 8080, False),
        ("[::1]:8080", "::1", 8080, True),
        ("[::]:65535", "::", 65535, False),
        ("robot.local:8080", "robot.local", 8080, False),
        ("127.8.9.1:1", "127.8.9.1", 1, True),
    ],
)
def test_host_and_port(text: str, host: str, port: int, local: bool) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, address.is_local) == (host, port, local)


@pytest.mark.parametrize(
    "text", ["", "web", "80 80", ":8080", "65536", "-1", "localhost:", "1.2.3.4:x", "٨٠", "::1:8080"]
)
def test_what_is_no_address_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(OptionError, match=r"^--web .*(expected PORT or HOST:PORT|without brackets)") as caught:
        Address.parse(text)
    assert "\n" not in str(caught.value)


def test_a_port_in_use_is_said_in_one_line() -> None:
    with Address("127.0.0.1", 0).listen() as first:
        port = first.getsockname()[1]
        with pytest.raises(SinkError, match=rf"^--web 127\.0\.0\.1:{port}: port {port} is in use; stop what uses it"):
            Address("127.0.0.1", port).listen()
    Address("127.0.0.1", port).listen().close()


def test_an_address_of_another_machine_cannot_be_listened_on() -> None:
    with pytest.raises(SinkError, match=r"192\.0\.2\.7 is not an address of this machine"):
        Address("192.0.2.7", 0).listen()
    with pytest.raises(SinkError, match="is not a host name"):
        Address("no such host", 80).listen()


def test_a_port_of_root_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: socket.socket, place: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module.socket, "socket", type("Refusing", (socket.socket,), {"bind": refuse}))
    with pytest.raises(SinkError, match="port 80 is kept for root; take one from 1024 on"):
        Address("127.0.0.1", 80).listen()


def test_names_of_this_machine() -> None:
    assert is_loopback("LOCALHOST.")
    assert not is_loopback("localhost.example.org")
    assert join("::1", 80) == "[::1]:80"
    assert reachable("robot.local") == "robot.local"
    assert reachable("0.0.0.0") not in ("", "0.0.0.0")
