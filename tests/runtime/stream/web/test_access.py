"""Who may see the page and change the stream."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from multidict import CIMultiDict

from camscribe.runtime.errors import OptionError
from camscribe.runtime.stream.web.access import Access, choose_token
from camscribe.runtime.stream.web.address import Address

TOKEN = "correct-horse"


def status(
    access: Access,
    headers: Mapping[str, str],
    method: str = "GET",
    path: str = "/caption.json",
    cookies: Mapping[str, str] | None = None,
    given: str | None = None,
) -> int:
    refusal = access.judge(method, path, CIMultiDict(headers), cookies or {}, given)
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("localhost:9000", 200),  # by way of an SSH tunnel
        ("evil.example:8080", 421),  # a name of somebody's that leads here
        ("localhost.evil.example", 421),
        ("192.168.0.7:8080", 421),
        ("", 421),
    ],
)
def test_without_a_token_only_this_machines_own_names_are_served(host: str, expected: int) -> None:
    assert status(Access(Address("127.0.0.1", 8080), None), {"Host": host}) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),  # curl
        ({"Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "http://localhost:8081", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "none"}, 200),
    ],
)
def test_a_page_of_another_origin_changes_nothing(headers: dict[str, str], expected: int) -> None:
    access, host = Access(Address("127.0.0.1", 8080), None), {"Host": "localhost:8080"}
    assert status(access, host | headers, "POST") == expected
    assert status(access, host | headers | {"Upgrade": "websocket"}) == expected
    assert status(access, host | headers) == 200


def test_a_proxy_with_tls_is_the_same_origin() -> None:
    access = Access(Address("127.0.0.1", 8080), TOKEN)
    headers = {"Host": "robot.example", "Origin": "https://robot.example:443", "Authorization": f"Bearer {TOKEN}"}
    assert status(access, headers, "POST") == 200


def test_a_token_opens_by_header_cookie_or_address() -> None:
    access, host = Access(Address("0.0.0.0", 8080), TOKEN), {"Host": "robot:8080"}
    assert access.cookie == "camscribe_8080"
    assert status(access, host) == 401
    assert status(access, host, given=TOKEN) == 200
    assert status(access, host, cookies={"camscribe_8080": TOKEN}) == 200
    assert status(access, host | {"Authorization": f"bearer {TOKEN}"}) == 200
    for wrong in (TOKEN[:-1], TOKEN + "x", "", "ключ", "\udcff"):
        assert status(access, host, given=wrong) == 401
        assert status(access, host, cookies={"camscribe_8080": wrong}) == 401
        assert status(access, host | {"Authorization": f"Bearer {wrong}"}) == 401
    assert status(access, host | {"Authorization": f"Basic {TOKEN}"}) == 401
    assert status(access, host, cookies={"camscribe_8081": TOKEN}) == 401


def test_what_tells_nothing_needs_no_token() -> None:
    access = Access(Address("0.0.0.0", 8080), TOKEN)
    assert status(access, {"Host": "robot"}, path="/healthz") == 200
    assert status(access, {"Host": "robot"}, path="/metrics") == 401
    assert status(access, {"Host": "robot", "Origin": "http://evil.example"}, "POST", "/healthz") == 403


def test_a_token_is_made_where_other_machines_can_come() -> None:
    wide, local = Address("0.0.0.0", 80), Address("127.0.0.1", 80)
    made = {choose_token(wide, None) for _ in range(20)}
    assert len(made) == 20
    assert all(token is not None and len(token) >= 24 for token in made)
    assert choose_token(local, None) is None
    assert choose_token(local, TOKEN) == TOKEN
    for wrong in ("", "seven77", "with space", "with\nline", "schlüssel!"):
        with pytest.raises(OptionError, match="--web-token: has"):
            choose_token(wide, wrong)
