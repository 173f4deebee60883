"""A real hub behind the TLS proxy: signing in, cookies, a kernel's socket."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import docker
import pytest
from steps import tls
from testbed.certificates import Authority
from testbed.gpu import state as states
from testbed.https import client, tls_proxy
from testbed.hub_process import PASSWORD, HubProcess, hub_process, own
from torchroom import public

pytestmark = pytest.mark.docker

HOST = "hub.school.test"
AT = f"https://{HOST}"
HERE = "127.0.0.1"
PORT = 8100
READY_WITHIN_S = 90
CONFIGURATION = f"""
from torchroom import public
site = public.read({{public.URL: {AT!r}}})
c.JupyterHub.update(site.jupyterhub)
"""


@pytest.fixture(scope="module")
def hub(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[HubProcess]:
    """A hub that is told its address, and the TLS proxy in front of it."""
    certificate, key = authority.issue(HOST)
    site = tls.read(
        {
            public.URL: AT,
            public.TLS: "files",
            public.CERTIFICATE: str(certificate),
            public.KEY: str(key),
        }
    )
    with (
        hub_process(
            engine,
            engine_socket,
            gpu_dir,
            tmp_path_factory.mktemp("https"),
            name="https",
            port=PORT,
            gpus=own(states.simple(1)),
            configuration=CONFIGURATION,
        ) as running,
        tls_proxy(
            engine,
            tls.variables(site),
            upstream=f"{HERE}:{PORT}",
            network_mode="host",
        ),
    ):
        yield running


@pytest.fixture
async def http(
    hub: HubProcess, authority: Authority
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that trusts the test's authority only."""
    async with client(HERE, authority.certificate) as session:
        yield session


def cookie(session: aiohttp.ClientSession, name: str) -> str:
    """The value of a cookie that was kept."""
    return next(kept.value for kept in session.cookie_jar if kept.key == name)


async def log_in(session: aiohttp.ClientSession, user: str) -> list[Any]:
    """Sign in as a browser does; returns every cookie that was set on the way."""
    set_ = []
    async with session.get(f"{AT}/hub/login") as page:
        set_ += [*page.cookies.values()]
    form = {"username": user, "password": PASSWORD, "_xsrf": cookie(session, "_xsrf")}
    async with session.post(f"{AT}/hub/login?next=/hub/token", data=form) as answer:
        for page in (*answer.history, answer):
            set_ += [*page.cookies.values()]
        assert str(answer.url) == f"{AT}/hub/token", await answer.text()
    return set_


async def test_every_cookie_of_the_hub_is_for_https_only(
    http: aiohttp.ClientSession,
) -> None:
    """No script reads them, and no other site's form sends them."""
    cookies = await log_in(http, "cora")
    assert {"jupyterhub-hub-login", "jupyterhub-session-id", "_xsrf"} == {
        found.key for found in cookies
    }
    for found in cookies:
        assert found["secure"], found
        assert found["httponly"], found
        assert found["samesite"] == "Lax", found


async def test_a_hub_that_is_reached_another_way_leads_back(hub: HubProcess) -> None:
    """Who comes by the proxy's own port gets no cookie that http would carry."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://{HERE}:{PORT}/user/x/", allow_redirects=False) as answer,
    ):
        assert answer.headers["Location"].startswith(f"{AT}/hub/user/x/")


async def test_pages_are_shown_in_no_other_page_and_guess_no_type(
    http: aiohttp.ClientSession,
) -> None:
    """The headers of the hub's own pages."""
    async with http.get(f"{AT}/hub/login") as page:
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "same-origin"
        assert page.headers["Strict-Transport-Security"].startswith("max-age=")


async def test_a_server_starts_and_its_kernel_talks_through_https(
    hub: HubProcess, http: aiohttp.ClientSession
) -> None:
    """The start's events, the sign-in to the server, and the kernel's socket."""
    user = "kira"
    await log_in(http, user)
    xsrf = {"X-XSRFToken": cookie(http, "_xsrf")}
    at_hub = f"{AT}/hub/api/users/{user}"
    async with http.post(
        f"{at_hub}/server", json={"user_options": {"offer": "cpu"}}, headers=xsrf
    ) as answer:
        assert answer.status in {201, 202}, await answer.text()
    last = await events(http, f"{at_hub}/server/progress", xsrf)
    assert last.get("ready"), last
    at_server = f"{AT}/user/{user}"
    async with http.get(f"{at_server}/lab") as page:  # to the hub and back
        assert page.status == 200
        assert str(page.url).startswith(at_server), page.url
    mine = [kept for kept in http.cookie_jar if kept["path"] == f"/user/{user}/"]
    assert {kept.key for kept in mine} >= {f"jupyterhub-user-{user}", "_xsrf"}
    assert all(kept["secure"] for kept in mine if kept.key != "_xsrf"), mine
    xsrf = {"X-XSRFToken": next(k.value for k in mine if k.key == "_xsrf")}
    async with http.post(f"{at_server}/api/kernels", json={}, headers=xsrf) as answer:
        assert answer.status == 201, await answer.text()
        kernel = (await answer.json())["id"]
    assert await run(http, f"{at_server}/api/kernels/{kernel}/channels") == "42\n"


async def events(
    http: aiohttp.ClientSession, url: str, headers: dict[str, str]
) -> dict[str, Any]:
    """Read the events of a start until it ended; returns the last."""
    last: dict[str, Any] = {}
    within = aiohttp.ClientTimeout(total=READY_WITHIN_S)
    async with http.get(url, headers=headers, timeout=within) as stream:
        assert stream.content_type == "text/event-stream", await stream.text()
        async for line in stream.content:
            if line.startswith(b"data:"):
                last = json.loads(line.removeprefix(b"data:"))
    return last


async def run(http: aiohttp.ClientSession, url: str) -> str:
    """Run a line in a kernel; returns what it printed."""
    async with http.ws_connect(url.replace("https", "wss")) as socket:
        header = {"msg_id": uuid.uuid4().hex, "session": "s", "username": ""}
        header |= {"msg_type": "execute_request", "version": "5.3"}
        await socket.send_json(
            {
                "header": header,
                "parent_header": {},
                "metadata": {},
                "content": {"code": "print(6 * 7)", "silent": False},
                "channel": "shell",
            }
        )
        while True:
            said = await socket.receive_json(timeout=READY_WITHIN_S)
            if said["msg_type"] == "stream":
                return str(said["content"]["text"])
