"""The TLS proxy with own files: who gets through, and with which headers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import docker
import pytest
from steps import tls
from testbed.certificates import Authority
from testbed.https import Behind, address_of, client, tls_proxy
from torchroom import public

pytestmark = pytest.mark.docker

HOST = "hub.school.test"
AT = f"https://{HOST}"
BRIDGE = "172.17.0.1"
PORT = 8071
A_YEAR = "max-age=31536000"
UPLOAD_BYTES = 48 * 2**20


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    """What the proxy leads to."""
    with Behind(BRIDGE, PORT) as server:
        yield server


@pytest.fixture(scope="module")
def address(engine: docker.DockerClient, authority: Authority) -> Iterator[str]:
    """Where the proxy of this module listens."""
    with tls_proxy(
        engine, variables(authority, HOST), upstream=f"{BRIDGE}:{PORT}"
    ) as container:
        yield address_of(container)


def variables(
    authority: Authority, host: str, *, subdomains: str = "0"
) -> dict[str, str]:
    """What ``make up`` gives to compose for a host with files of its own."""
    certificate, key = authority.issue(host, f"*.{host}")
    environment = {
        public.URL: f"https://{host}",
        public.SUBDOMAINS: subdomains,
        public.TLS: "files",
        public.CERTIFICATE: str(certificate),
        public.KEY: str(key),
    }
    return tls.variables(tls.read(environment))


@pytest.fixture
async def http(
    address: str, authority: Authority
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that trusts the test's authority only."""
    async with client(address, authority.certificate) as session:
        yield session


async def seen(session: aiohttp.ClientSession, **headers: str) -> dict[str, str]:
    """The headers that come out behind the proxy."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with session.get(f"{AT}/hub/login?next=x", headers=sent) as answer:
        told = await answer.json()
        assert told["path"] == "/hub/login?next=x"
        got: dict[str, str] = told["headers"]
        return got


async def test_http_leads_to_https(http: aiohttp.ClientSession, behind: Behind) -> None:
    """With the path; a form that was sent is sent again, not turned into a GET."""
    for method in ("GET", "POST"):
        async with http.request(
            method, f"http://{HOST}/user/a?b=c", allow_redirects=False
        ) as answer:
            assert answer.status == 308
            assert answer.headers["Location"] == f"{AT}/user/a?b=c"


async def test_browsers_are_told_to_stay_with_https(
    http: aiohttp.ClientSession, behind: Behind
) -> None:
    """For a year; an answer of a user's server cannot take it back."""
    for path in ("/hub/login", "/sly"):
        async with http.get(AT + path) as answer:
            assert answer.headers.getall("Strict-Transport-Security") == [A_YEAR]
            assert "Server" not in answer.headers


async def test_no_server_speaks_for_the_whole_host(
    http: aiohttp.ClientSession, behind: Behind
) -> None:
    """What would outlast its page, or reach the pages of others, is taken out."""
    async with http.get(f"{AT}/sly") as answer:
        assert answer.headers["X-Mine"] == "kept"
        for name in ("Service-Worker-Allowed", "Clear-Site-Data", "NEL", "Report-To"):
            assert name not in answer.headers


async def test_forged_headers_do_not_get_through(
    http: aiohttp.ClientSession, behind: Behind
) -> None:
    """Whatever a client says about itself, the hub learns what is true."""
    plain = await seen(http)
    forged = await seen(
        http,
        X_Forwarded_For="192.0.2.1",
        X_Forwarded_Proto="http",
        X_Forwarded_Host="evil.test",
        X_Forwarded_Port="1",
        X_Forwarded_Prefix="/evil",
        X_Real_IP="192.0.2.1",
        X_Scheme="http",
        Forwarded="for=192.0.2.1;proto=http",
    )
    assert forged == plain
    assert plain["x-forwarded-for"] == BRIDGE  # this client, as the proxy sees it
    assert plain["x-real-ip"] == BRIDGE
    assert (plain["x-forwarded-proto"], plain["x-scheme"]) == ("https", "https")
    assert (plain["host"], plain["x-forwarded-host"]) == (HOST, HOST)
    assert not {"forwarded", "x-forwarded-port", "x-forwarded-prefix"} & set(plain)


async def test_sockets_get_through(http: aiohttp.ClientSession, behind: Behind) -> None:
    """Kernels and terminals talk over them."""
    async with http.ws_connect(f"wss://{HOST}/socket") as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=30) == "hello https"


async def test_events_are_not_kept_back(
    http: aiohttp.ClientSession, behind: Behind
) -> None:
    """The first one arrives while the second is not even written."""
    async with http.get(f"{AT}/events") as answer:
        assert await answer.content.readuntil(b"\n\n") == b"data: first\n\n"
        behind.go_on()
        assert await answer.content.readuntil(b"\n\n") == b"data: second\n\n"


async def test_big_files_get_through(
    http: aiohttp.ClientSession, behind: Behind
) -> None:
    """Longer than proxies like to allow."""
    async with http.put(f"{AT}/files/big", data=bytes(UPLOAD_BYTES)) as answer:
        assert (await answer.json())["n_bytes"] == UPLOAD_BYTES


async def test_another_host_name_gets_nothing(
    http: aiohttp.ClientSession, behind: Behind
) -> None:
    """Neither one without a certificate nor one that a wildcard happens to cover."""
    with pytest.raises(aiohttp.ClientConnectionError):
        await http.get("https://other.school.test/hub/login")
    for url in (f"https://sub.{HOST}/hub/login", "http://other.school.test/"):
        async with http.get(url, allow_redirects=False) as answer:
            assert "Location" not in answer.headers
            assert await answer.text() == ""


async def test_with_subdomains_every_host_below_gets_through(
    engine: docker.DockerClient, authority: Authority, behind: Behind
) -> None:
    """And what is promised about https is promised for them, too."""
    told = variables(authority, HOST, subdomains="1")
    with tls_proxy(engine, told, upstream=f"{BRIDGE}:{PORT}") as container:
        async with client(address_of(container), authority.certificate) as http:
            async with http.get(f"https://alice.{HOST}/") as answer:
                assert (await answer.json())["headers"]["host"] == f"alice.{HOST}"
                promised = answer.headers["Strict-Transport-Security"]
                assert promised == f"{A_YEAR}; includeSubDomains"
            async with http.get(
                f"http://alice.{HOST}/x", allow_redirects=False
            ) as answer:
                assert answer.headers["Location"] == f"https://alice.{HOST}/x"


async def test_a_hub_that_does_not_answer_is_said_kindly(
    engine: docker.DockerClient, authority: Authority, tmp_path: Path
) -> None:
    """With a sentence and a status that lets clients come again."""
    with tls_proxy(
        engine, variables(authority, HOST), upstream=f"{BRIDGE}:{PORT + 1}"
    ) as container:
        async with (
            client(address_of(container), authority.certificate) as http,
            http.get(f"{AT}/hub/login") as answer,
        ):
            assert answer.status == 502
            assert "does not answer" in await answer.text()
            assert answer.headers["Retry-After"] == "5"
