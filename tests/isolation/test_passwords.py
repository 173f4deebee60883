"""Who the hub takes a login by password for: a real hub, told where its servers are.

No engine: the loopback is the servers' network. Its first address is the host's and the
proxy's, the next one is a server's.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from testbed.login_hub import LoginHub, login_hub
from torchroom.auth.pace import WRONG_OF_NAME

HOST, SERVER = "127.0.0.1", "127.0.0.2"
WITHIN_S = 30


class From(HTTPAdapter):
    """Connects from an address of this machine."""

    def __init__(self, address: str) -> None:
        self.address = address
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """See `HTTPAdapter`."""
        source = (self.address, 0)
        super().init_poolmanager(*args, source_address=source, **kwargs)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginHub]:
    """A hub with its servers' network; https of this machine stands in front."""
    told = {
        "TORCHROOM_SUBNET": "127.0.0.0/8",
        "TORCHROOM_PROXY_ADDRESS": HOST,
        "TORCHROOM_PUBLIC_URL": "https://hub.localhost",
    }
    with login_hub(tmp_path_factory.mktemp("local"), environment=told) as running:
        yield running
        assert "Traceback" not in running.log()


def log_in(
    url: str, name: str, password: str, *, source: str = HOST, client: str = "9.9.9.9"
) -> requests.Response:
    """Fill the hub's form in.

    Args:
        url: Of the hub or its proxy.
        name: Who logs in.
        password: Theirs.
        source: The address to connect from.
        client: Whom the TLS proxy has seen.
    """
    session = requests.Session()
    session.mount("http://", From(source))
    headers = {"Host": HOST, "X-Forwarded-For": client}
    form = session.get(f"{url}/hub/login", timeout=WITHIN_S, headers=headers)
    token = re.search(r'name="_xsrf" value="([^"]+)"', form.text)
    assert token
    # its cookies are for https only
    cookies = "; ".join(f"{kept.name}={kept.value}" for kept in session.cookies)
    return session.post(
        f"{url}/hub/login",
        data={"username": name, "password": password, "_xsrf": token[1]},
        headers=headers | {"Cookie": cookies},
        timeout=WITHIN_S,
        allow_redirects=False,
    )


def everybodys(hub: LoginHub) -> str:
    """The password that lets everybody in."""
    known = json.loads((hub.folder / "local-login.json").read_text())
    return str(known["user_password"])


def test_a_program_in_a_server_logs_nobody_in(hub: LoginHub) -> None:
    """With the right password, and whatever Host it sends; the host itself does."""
    at_hub, known = f"http://{HOST}:{hub.hub_port}", everybodys(hub)
    page = log_in(at_hub, "eve", known, source=SERVER)
    assert page.status_code == 403
    assert "on this machine only" in page.text
    assert log_in(hub.url, "eve", known).is_redirect


def test_guessing_is_counted_for_who_the_tls_proxy_has_seen(hub: LoginHub) -> None:
    """Nobody locks others out, for all come by the same two proxies."""
    for _ in range(WRONG_OF_NAME.most):
        assert log_in(hub.url, "ann", "wrong", client="8.8.8.8").status_code == 403
    assert log_in(hub.url, "ann", "wrong", client="8.8.8.8").status_code == 429
    assert log_in(hub.url, "ann", everybodys(hub), client="7.7.7.7").is_redirect
