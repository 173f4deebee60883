"""``make up`` with https and subdomains: users' pages cannot reach each other's."""

import http.client
import re
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect
from testbed.browser import choose
from testbed.certificates import Authority
from testbed.engine_proxy import EngineProxy
from testbed.hub import Deployment

pytestmark = [pytest.mark.docker, pytest.mark.browser]

HERE = "127.0.0.1"
HOST = "hub.localhost"  # a browser finds this machine under every such name
HTTPS_PORT, HTTP_PORT = 8444, 8084
AT = f"https://{HOST}:{HTTPS_PORT}"
CONSOLE = f"https://torchroom--service.{HOST}:{HTTPS_PORT}/services/torchroom/"
READY_MS = 90_000
FETCH = """url => fetch(url, {credentials: "include"})
    .then(answer => answer.type, error => String(error))"""
SOCKET = """url => new Promise(done => {
    const socket = new WebSocket(url);
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
})"""
FORM = """url => {
    const form = document.createElement("form");
    Object.assign(form, {method: "post", action: url});
    document.body.append(form);
    form.submit();
}"""


def at(user: str) -> str:
    """Where the pages of a user's server are."""
    return f"https://{user}.{HOST}:{HTTPS_PORT}"


@pytest.fixture(scope="module")
def mine(
    engine: docker.DockerClient,
    engine_socket: Path,
    gpu_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
    authority: Authority,
) -> Iterator[Deployment]:
    """A deployment with a certificate for the hub and for all hosts below it."""
    certificate, key = authority.issue(HOST, f"*.{HOST}")
    with EngineProxy(engine_socket, engine_socket.parent / "https.sock") as proxy:
        deployment = Deployment(
            root=Path(__file__).resolve().parents[2],
            engine=engine,
            proxy=proxy,
            gpu_dir=gpu_dir,
            state_dir=tmp_path_factory.mktemp("https-up"),
            port=8140,
            project="torchroom-https",
            settings={
                "TORCHROOM_PUBLIC_URL": AT,
                "TORCHROOM_SUBDOMAINS": "1",
                "TORCHROOM_TLS": "files",
                "TORCHROOM_TLS_CERT": str(certificate),
                "TORCHROOM_TLS_KEY": str(key),
                "TORCHROOM_HTTP_PORT": str(HTTP_PORT),
            },
        )
        deployment.up()
        yield deployment
        deployment.make("down")


@pytest.fixture
def profile(browser: Browser) -> Iterator[BrowserContext]:
    """A browser of a user's own. The certificate is checked in another test."""
    context = browser.new_context(ignore_https_errors=True)
    yield context
    context.close()


def log_in(profile: BrowserContext, deployment: Deployment, user: str) -> Page:
    """Sign in; leads to the spawn form."""
    page = profile.new_page()
    page.goto(AT)
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(deployment.login["user_password"])
    page.locator("#login_submit").click()
    expect(page.locator("#spawn_form")).to_be_visible()
    return page


def eves_page(profile: BrowserContext) -> Page:
    """A page on eve's host, in the browser of somebody who was led there."""
    profile.route(
        f"{at('eve')}/trap",
        lambda route: route.fulfill(content_type="text/html", body="<p>Look!</p>"),
    )
    page = profile.new_page()
    page.goto(f"{at('eve')}/trap")
    return page


def test_up_says_the_address_and_opens_no_other(
    mine: Deployment, authority: Authority
) -> None:
    """The hub answers there with the certificate that was given; all is loopback."""
    assert AT in mine.last_output
    context = ssl.create_default_context(cafile=authority.certificate)
    for host in (HOST, f"anybody.{HOST}"):
        with (
            socket.create_connection((HERE, HTTPS_PORT), 10) as plain,
            context.wrap_socket(plain, server_hostname=host) as sealed,
        ):
            connection = http.client.HTTPConnection(host, HTTPS_PORT)
            connection.sock = sealed
            connection.request("GET", "/hub/login")
            assert connection.getresponse().status == 200
    answer = requests.get(
        f"http://{HERE}:{HTTP_PORT}/x",
        headers={"Host": f"{HOST}:{HTTP_PORT}"},
        allow_redirects=False,
        timeout=10,
    )
    assert answer.headers["Location"] == f"{AT}/x"
    for name in ("tls", "proxy", "hub"):
        ports = mine.service(name).attrs["NetworkSettings"]["Ports"] or {}
        bound = [row["HostIp"] for rows in ports.values() for row in rows or []]
        assert set(bound) <= {HERE}, f"{name}: {ports}"


def test_a_server_has_a_host_of_its_own(
    mine: Deployment, profile: BrowserContext
) -> None:
    """JupyterLab works there; its cookies and the hub's cannot be planted.

    Browsers let any page open a socket anywhere, and send the cookies of the same site
    along: the server itself looks where the page comes from.
    """
    page = log_in(profile, mine, "alice")
    choose(page, "cpu")
    page.wait_for_url(f"{at('alice')}/user/alice/lab/tree/**", timeout=READY_MS)
    expect(page.locator(".jp-Notebook")).to_be_visible(timeout=READY_MS)
    idle = page.locator("#jp-bottom-panel").get_by_text(re.compile(r"\| Idle"))
    expect(idle.first).to_be_visible(timeout=READY_MS)  # the kernel's socket works
    cookies = {kept["name"]: kept for kept in profile.cookies()}
    hubs = cookies["__Host-jupyterhub-hub-login"]
    servers = cookies["__Host-jupyterhub-user-alice"]
    for kept, host in ((hubs, HOST), (servers, f"alice.{HOST}")):
        assert kept["domain"] == host, kept  # without a dot: for this host alone
        assert kept["secure"], kept
        assert kept["httpOnly"], kept
        assert kept["sameSite"] == "Lax", kept
    assert not {"jupyterhub-hub-login", "jupyterhub-user-alice"} & set(cookies)
    events = f"wss://alice.{HOST}:{HTTPS_PORT}/user/alice/api/events/subscribe"
    assert page.evaluate(SOCKET, events) == "open"
    assert eves_page(profile).evaluate(SOCKET, events) == "refused"


def test_a_page_of_another_user_reaches_nothing(
    mine: Deployment, profile: BrowserContext
) -> None:
    """A script on eve's host, in amy's browser, while amy is signed in."""
    log_in(profile, mine, "amy")
    page = eves_page(profile)
    assert page.evaluate("document.cookie") == ""
    for url in (f"{AT}/hub/token", f"{AT}/hub/api/user", f"{at('amy')}/user/amy/"):
        told = page.evaluate(FETCH, url)
        assert told.startswith("TypeError"), f"{url}: {told}"
    with page.expect_navigation() as sent:  # a form needs nobody's permission
        page.evaluate(FORM, f"{AT}/hub/api/users/amy/tokens")
    assert sent.value.status == 403
    page.goto(f"{at('eve')}/trap")
    page.evaluate(
        "document.cookie = `__Host-jupyterhub-hub-login=evil; Secure; Path=/;"
        f" Domain={HOST}`"
    )
    kept = [k for k in profile.cookies() if k["name"] == "__Host-jupyterhub-hub-login"]
    assert [found["domain"] for found in kept] == [HOST]
    assert kept[0]["value"] != "evil"
    page.goto(f"{AT}/hub/home")
    expect(page.get_by_text("amy").first).to_be_visible()


def test_the_page_of_tokens_has_a_host_of_its_own(
    mine: Deployment, profile: BrowserContext
) -> None:
    """Signing in there, its form, and signing in again in the middle of it."""
    log_in(profile, mine, "carol")
    page = profile.new_page()
    page.goto(CONSOLE)
    expect(page.get_by_role("heading", name="Your tokens")).to_be_visible()
    assert page.url == CONSOLE
    name = "__Host-torchroom-session"
    (session,) = [kept for kept in profile.cookies() if kept["name"] == name]
    assert session["domain"] == f"torchroom--service.{HOST}"
    assert session["secure"]
    assert session["httpOnly"]
    for signs_in_again in (False, True):
        if signs_in_again:
            profile.clear_cookies(name=name)
        page.get_by_label("Code").fill("TR-0000-0000-0000-0000")
        page.get_by_role("button", name="Redeem").click()
        expect(page.get_by_role("status")).to_have_count(int(not signs_in_again))
        expect(page.get_by_role("heading", name="Your tokens")).to_be_visible()
        assert page.url == CONSOLE
    page.get_by_role("link", name="Back to the hub").click()
    page.wait_for_url(f"{AT}/hub/home")


def test_without_tls_its_proxy_goes(mine: Deployment) -> None:
    """``make up`` after a changed .env leaves nothing that listens."""
    mine.settings = {}
    mine.up()
    assert mine.url in mine.last_output
    label = "com.docker.compose.service=tls"
    project = f"com.docker.compose.project={mine.project}"
    wanted: dict[str, str | list[str] | bool] = {"label": [label, project]}
    assert not mine.engine.containers.list(all=True, filters=wanted)
    assert requests.get(f"{mine.url}/hub/login", timeout=10).ok
