"""Who may see the page and change the stream.

Three things are guarded against: another machine without the token; a page of another origin, open in the browser of
somebody who may (it could send what that browser may send); and such a page whose host name was turned to our address
(DNS rebinding), which a browser takes for our own.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from camscribe.runtime.errors import OptionError
from camscribe.runtime.stream.web.address import Address, is_loopback

PUBLIC = frozenset({"/healthz", "/page.css", "/icon.svg"})
"""Paths that tell nothing about the stream, so that they need no token."""
SHORTEST_TOKEN = 8

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Of every answer. The page gets scripts, styles and data from here and from nowhere else."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: int
    message: str


class Access:
    """Judges requests by what they bring along."""

    def __init__(self, address: Address, token: str | None) -> None:
        """See ``choose_token`` for the token; ``address`` has the port that was taken."""
        self._host = address.host.lower()
        self._token = token
        self.cookie = f"camscribe_{address.port}"
        """Name of the cookie. A browser gives a host's cookies to all ports of it, so the port is in the name."""

    @property
    def token(self) -> str | None:
        """None where none is needed."""
        return self._token

    def judge(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        cookies: Mapping[str, str],
        given: str | None,
    ) -> Refusal | None:
        """Says whether a request is refused.

        Args:
            method: such as ``GET``.
            path: without the query.
            headers: whose names are found in any case.
            cookies: by name.
            given: the token of the query.
        """
        host = headers.get("Host", "")
        if self._token is None and not self._is_ours(_without_port(host)):
            return Refusal(
                421, f"this page is not called {_without_port(host) or 'nothing'}; use localhost, or give it a token"
            )
        if (method not in ("GET", "HEAD") or headers.get("Upgrade")) and _is_foreign(headers, host):
            return Refusal(403, "a page of another origin may not do that")
        if self._token is None or path in PUBLIC:
            return None
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        offers = [given, cookies.get(self.cookie), bearer.strip() if scheme.lower() == "bearer" else None]
        if any(self._opens(offer) for offer in offers if offer):
            return None
        return Refusal(401, "a token is needed; open the address that camscribe printed when it started")

    def _opens(self, offer: str) -> bool:
        """Takes equally long whatever is offered, so that time does not give the token away."""
        return hmac.compare_digest(offer.encode(errors="replace"), (self._token or "").encode())

    def _is_ours(self, name: str) -> bool:
        """Without a token only names that no foreign page can have are served: a name of its own may lead here."""
        return is_loopback(name) or name.lower() == self._host


def choose_token(address: Address, given: str | None) -> str | None:
    """The token that visitors must know: the one given; a new one where other machines can come; else none.

    Raises:
        OptionError: the one given is too short, or is not printable ASCII.
    """
    if given is None:
        return None if address.is_local else secrets.token_urlsafe(18)
    if not given.isascii() or not given.isprintable() or " " in given:
        raise OptionError("--web-token: has characters that a URL cannot hold; expected letters, digits and signs")
    if len(given) < SHORTEST_TOKEN:
        raise OptionError(f"--web-token: has {len(given)} characters; expected at least {SHORTEST_TOKEN}")
    return given


def _is_foreign(headers: Mapping[str, str], host: str) -> bool:
    """Whether a browser says that a page of another origin asks. What is no browser says nothing."""
    origin = headers.get("Origin")
    if origin is None:
        return headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    scheme, _, place = origin.partition("://")
    standard = {"http": ":80", "https": ":443"}.get(scheme, "")
    # Behind a proxy with TLS the scheme is the browser's, not ours: host and port are what counts.
    return not place or place.lower().removesuffix(standard) != host.lower().removesuffix(standard)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
