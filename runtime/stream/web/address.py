"""Where the page is served: ``[HOST:]PORT``."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

from camscribe.runtime.errors import OptionError, SinkError

LOCAL = "127.0.0.1"
_SEND_BUFFER_BYTES = 256 * 1024
"""Of each viewer in the kernel: a few pictures, so that a slow one is shown the newest and not what is long past."""


@dataclass(frozen=True)
class Address:
    """A host and a port to listen on."""

    host: str
    port: int
    """0 for one that is free."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Reads ``PORT``, ``HOST:PORT`` or ``[IPV6]:PORT``. Without a host only this machine is served.

        Raises:
            OptionError: the text is of another form.
        """
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise OptionError(f"--web {text}: has an IPv6 address without brackets; write [{host}]:{port}")
        if not (port.isascii() and port.isdecimal() and int(port) <= 65535) or (colon and not host):
            raise OptionError(f"--web {text}: expected PORT or HOST:PORT, such as 8080 or 0.0.0.0:8080")
        return cls(host or LOCAL, int(port))

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)

    def listen(self) -> socket.socket:
        """Takes the port.

        Raises:
            SinkError: it cannot be taken; says why.
        """
        what = f"--web {join(self.host, self.port)}"
        try:
            family, kind, protocol, _, place = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
        except (socket.gaierror, UnicodeError) as error:
            raise SinkError(f"{what}: {self.host!r} is not a host name or address of this machine") from error
        listener = socket.socket(family, kind, protocol)
        try:
            # The port of a stream that ended a moment ago; never one that somebody listens on.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            listener.bind(place)
            listener.listen(128)
        except OSError as error:
            listener.close()
            raise SinkError(f"{what}: {_reason(error, self)}") from error
        listener.setblocking(False)
        return listener


def is_loopback(host: str) -> bool:
    """Whether a host name or address means the machine that uses it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def join(host: str, port: int) -> str:
    """Host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reachable(host: str) -> str:
    """What another machine may call this one, where ``host`` is what it listens on."""
    try:
        anywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        anywhere = False
    if not anywhere:
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Sends nothing: only asks the routing table. The address is one that is kept for documents (RFC 5737).
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return socket.gethostname()


def _reason(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {address.port} is in use; stop what uses it, or take another one"
    if error.errno == errno.EACCES:
        return f"port {address.port} is kept for root; take one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{address.host} is not an address of this machine; 0.0.0.0 stands for all it has"
    return f"cannot be listened on ({error.strerror})"
