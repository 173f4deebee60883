"""Logins that come too fast are refused with a sentence; a whole class gets in."""

import asyncio
import ipaddress
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from gpuspawner.pacing import Pace
from torchroom.auth import pace
from torchroom.auth.pace import LoginPace, client
from tornado import httpclient, httpserver, web
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine
from tornado.testing import bind_unused_port

PROXY = "172.18.0.2"
LINE = RequestStartLine("POST", "/hub/login", "HTTP/1.1")
N_CLASS = 200
ADDRESS_MAX = 40


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class _Context:
    address: tuple[str, int]
    remote_ip: str = "6.6.6.6"
    protocol: str = "http"


@dataclass
class _Connection:
    context: _Context


def request(forwarded: str = "9.9.9.9", peer: str = PROXY) -> HTTPServerRequest:
    """A request as the hub gets it from its proxy, X-Real-Ip forged."""
    headers = HTTPHeaders(
        {"Host": "hub", "X-Forwarded-For": forwarded, "X-Real-Ip": "6.6.6.6"}
    )
    connection: Any = _Connection(_Context((peer, 1)))
    return HTTPServerRequest(start_line=LINE, headers=headers, connection=connection)


@pytest.mark.parametrize(
    ("forwarded", "n_proxies", "seen"),
    [
        ("9.9.9.9", 1, "9.9.9.9"),
        ("1.1.1.1, 9.9.9.9", 1, "9.9.9.9"),
        ("1.1.1.1,9.9.9.9,172.18.0.3", 2, "9.9.9.9"),
        ("9.9.9.9,172.18.0.3", 2, "9.9.9.9"),
        ("", 1, PROXY),
        ("9.9.9.9", 2, PROXY),  # did not come through both
        ("9.9.9.9", 0, PROXY),
        ("1.1.1.1, not an address", 1, PROXY),
        ("1.1.1.1, ", 1, PROXY),
        ("2001:db8:1:2:3:4:5:6", 1, "2001:db8:1:2::/64"),
        ("::ffff:9.9.9.9", 1, "9.9.9.9"),
        ("x" * 100_000, 1, PROXY),
    ],
)
def test_who_asks_is_who_our_proxies_saw(
    forwarded: str, n_proxies: int, seen: str
) -> None:
    """Whatever else the header begins with."""
    assert client(PROXY, forwarded, n_proxies) == seen


def test_a_header_that_anybody_can_send_is_not_believed() -> None:
    """X-Real-Ip never; X-Forwarded-For not of users' servers, if they are known."""
    assert LoginPace().address(request()) == "9.9.9.9"
    servers = ipaddress.IPv4Network("10.117.0.0/20")
    known = LoginPace(servers=servers, proxy="10.117.0.3")
    for proxy in (PROXY, "10.117.0.3"):  # it has an address in each of its networks
        assert known.address(request(peer=proxy)) == "9.9.9.9"
    for server in ("10.117.8.7", "::ffff:10.117.8.7"):
        assert known.address(request(peer=server)) == "10.117.8.7"


@pytest.mark.parametrize(
    ("peer", "forwarded", "is_server"),
    [
        ("10.117.8.7", "", True),  # straight to the hub
        ("10.117.8.7", "127.0.0.1", True),
        ("::ffff:10.117.8.7", "127.0.0.1", True),
        ("10.117.0.3", "10.117.8.7", True),  # through the proxy
        (PROXY, "127.0.0.1, 10.117.8.7", True),
        ("10.117.0.3", "9.9.9.9", False),
        (PROXY, "9.9.9.9", False),
        (PROXY, "10.117.8.7, 9.9.9.9", False),
        (PROXY, "10.117.0.1", False),  # the host, by a published port
        ("127.0.0.1", "127.0.0.1", False),
    ],
)
def test_a_program_in_a_server_is_known_for_one(
    peer: str, forwarded: str, is_server: bool
) -> None:
    servers = ipaddress.IPv4Network("10.117.0.0/20")
    known = LoginPace(servers=servers, proxy="10.117.0.3")
    assert known.is_from_server(request(forwarded, peer)) is is_server
    assert not LoginPace().is_from_server(request(forwarded, peer))


def refused(call: Any, *arguments: Any) -> str:
    """The sentence of a refusal."""
    with pytest.raises(web.HTTPError) as caught:
        call(*arguments)
    assert caught.value.status_code == 429
    assert int(caught.value.headers["Retry-After"]) > 0  # type: ignore[attr-defined]
    return str(caught.value.log_message)


def test_wrong_passwords_for_a_name_from_an_address_are_few() -> None:
    """Upper case and spaces are no other name; nobody locks others out of theirs."""
    clock = Clock()
    limits = LoginPace(clock=clock)
    for _ in range(10):
        limits.check_password(request(), "ann")
        limits.password_failed(request(), "ann")
    told = refused(limits.check_password, request(), " ANN ")
    assert told.endswith("Try again in 10 minutes.")
    limits.check_password(request("8.8.8.8"), "ann")
    limits.check_password(request(), "bob")
    clock.now = 601.0
    limits.check_password(request(), "ann")


def test_wrong_passwords_from_an_address_end_too() -> None:
    """Each for another name: somebody goes through a list."""
    limits = LoginPace(clock=Clock())
    for n in range(300):
        limits.check_password(request(), f"user {n}")
        limits.password_failed(request(), f"user {n}")
    refused(limits.check_password, request(), "ann")
    limits.check_password(request("8.8.8.8"), "ann")


def test_a_class_behind_one_address_gets_in_within_a_minute() -> None:
    """Also if everybody tries twice; and if half of them mistype their password."""
    clock = Clock()
    limits = LoginPace(clock=clock)
    for n in range(N_CLASS):
        for _ in range(2):
            limits.check_login(request())
        limits.check_password(request(), f"student {n}")
        if n % 2:
            limits.password_failed(request(), f"student {n}")
        clock.now += 60 / N_CLASS
    assert clock.now < 61


def test_steps_at_the_provider_end_as_well() -> None:
    """Each costs the hub a question to it."""
    limits = LoginPace(logins_of_address=Pace(5, 60), clock=Clock())
    for _ in range(5):
        limits.check_login(request())
    assert refused(limits.check_login, request()).endswith("again in a minute.")
    limits.check_login(request("8.8.8.8"))


def test_memory_is_bounded_whatever_names_and_addresses_come() -> None:
    """A name is cut, and there are only so many of everything."""
    limits = LoginPace(clock=Clock())
    for n in range(60_000):
        address = f"{n % 200 + 1}.{n // 200 % 200}.{n // 40_000}.1"
        limits.password_failed(request(address), f"{n}" + "x" * 10_000)
    assert len(limits._of_name) <= 50_000
    assert max(map(len, limits._of_name._events)) <= pace.NAME_MAX + ADDRESS_MAX


def test_what_tornado_says_can_be_forged_and_ours_cannot() -> None:
    """The reason for all this, on a server set up as JupyterHub's is."""
    seen: list[tuple[str, str]] = []

    class Handler(web.RequestHandler):
        def get(self) -> None:
            ours = LoginPace().address(self.request)
            seen.append((str(self.request.remote_ip), ours))

    async def go() -> None:
        socket, port = bind_unused_port()
        with closing(socket):
            server = httpserver.HTTPServer(
                web.Application([("/", Handler)]), xheaders=True
            )
            server.add_socket(socket)
            await httpclient.AsyncHTTPClient().fetch(
                f"http://127.0.0.1:{port}/",
                headers={"X-Forwarded-For": "1.1.1.1, 9.9.9.9", "X-Real-Ip": "6.6.6.6"},
            )
            server.stop()

    asyncio.run(go())
    assert seen == [("6.6.6.6", "9.9.9.9")]
