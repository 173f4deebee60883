"""What providers say of themselves: real answers over HTTP, good, bad and none."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from testbed.bare_hub import free_port
from torchroom.auth import discovery
from torchroom.auth.endpoints import DiscoveryError, understood
from torchroom.settings import SettingError

WELL_KNOWN = "/.well-known/openid-configuration"
ISSUER = "https://id.school.edu/realms/all"
GOOD: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/auth",
    "token_endpoint": f"{ISSUER}/token",
    "userinfo_endpoint": f"{ISSUER}/userinfo",
    "jwks_uri": f"{ISSUER}/keys",
    "end_session_endpoint": f"{ISSUER}/logout",
    "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"],
    "token_endpoint_auth_methods_supported": ["client_secret_post"],
    "code_challenge_methods_supported": ["plain", "S256"],
    "scopes_supported": ["openid", "groups"],
}


@dataclass
class Site:
    """A web server that answers everything with one thing."""

    port: int = 0
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{WELL_KNOWN}"

    def describe(self, **changed: Any) -> None:
        here = {"issuer": f"http://127.0.0.1:{self.port}"}
        self.body = json.dumps(GOOD | here | changed).encode()


@pytest.fixture
def site() -> Iterator[Site]:
    """A running web server."""
    told = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(told.status)
            for name, value in told.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(told.body)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    told.port = server.server_address[1]
    told.describe()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield told
    server.shutdown()
    server.server_close()


def test_a_good_one() -> None:
    found = understood(ISSUER + WELL_KNOWN, GOOD)
    assert found.algorithms == ("RS256",)
    assert (found.issuer, found.token) == (ISSUER, f"{ISSUER}/token")
    assert found.is_basic is False
    assert found.sends_issuer is False


def test_what_is_not_said_is_as_the_standard_has_it() -> None:
    needed = {"issuer", "authorization_endpoint", "token_endpoint", "jwks_uri"}
    bare = {name: GOOD[name] for name in needed}
    found = understood(ISSUER + WELL_KNOWN, bare)
    assert found.is_basic is True
    assert found.algorithms == ("RS256",)
    assert found.userinfo == found.end_session == ""


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([], "does not describe itself"),
    "a text": ("x", "does not describe itself"),
    "another issuer": (GOOD | {"issuer": "https://evil.example"}, "says that it is"),
    "an issuer below": (GOOD | {"issuer": f"{ISSUER}/x"}, "says that it is"),
    "no issuer": (GOOD | {"issuer": None}, "says that it is"),
    "no authorize": (GOOD | {"authorization_endpoint": None}, "authorization_endpoint"),
    "no token": (GOOD | {"token_endpoint": ""}, "token_endpoint"),
    "http token": (
        GOOD | {"token_endpoint": "http://id.school.edu/"},
        "token_endpoint",
    ),
    "http userinfo": (
        GOOD | {"userinfo_endpoint": "http://x.edu/"},
        "userinfo_endpoint",
    ),
    "file keys": (GOOD | {"jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
    "no keys": ({k: v for k, v in GOOD.items() if k != "jwks_uri"}, "jwks_uri"),
    "a number": (GOOD | {"token_endpoint": 7}, "token_endpoint"),
    "no PKCE": (GOOD | {"code_challenge_methods_supported": ["plain"]}, "PKCE"),
    "secrets only": (
        GOOD | {"id_token_signing_alg_values_supported": ["HS256", "none"]},
        "signs in no way",
    ),
}


@pytest.mark.parametrize(("document", "words"), BAD.values(), ids=BAD)
def test_a_bad_one(document: Any, words: str) -> None:
    with pytest.raises(DiscoveryError, match=words):
        understood(ISSUER + WELL_KNOWN, document)


def test_it_is_asked_and_kept(site: Site, tmp_path: Path) -> None:
    found = discovery.endpoints(site.url, tmp_path)
    assert found.token == f"{ISSUER}/token"
    site.status = 503
    assert discovery.endpoints(site.url, tmp_path) == found


def test_what_is_kept_of_another_provider_does_not_count(
    site: Site, tmp_path: Path
) -> None:
    discovery.endpoints(site.url, tmp_path)
    nobody = f"http://127.0.0.1:{free_port()}{WELL_KNOWN}"
    with pytest.raises(SettingError, match="does not answer"):
        discovery.endpoints(nobody, tmp_path)


@pytest.mark.parametrize("kept", ["", "{", "[]", "{}", '{"algorithms": 7}'])
def test_a_damaged_copy_does_not_count(tmp_path: Path, kept: str) -> None:
    (tmp_path / discovery.FILE).write_text(kept)
    nobody = f"http://127.0.0.1:{free_port()}{WELL_KNOWN}"
    with pytest.raises(SettingError, match="no earlier answer"):
        discovery.endpoints(nobody, tmp_path)


def test_nothing_leads_elsewhere(site: Site, tmp_path: Path) -> None:
    site.status, site.headers = 302, {"Location": site.url}
    with pytest.raises(SettingError, match="answers 302"):
        discovery.endpoints(site.url, tmp_path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "not answer with JSON"),
        (b"\xff", "not answer with JSON"),
        (b" " * (discovery.SIZE_MAX + 1), "more than"),
        (b"{}", "says that it is"),
    ],
)
def test_nonsense(site: Site, tmp_path: Path, body: bytes, words: str) -> None:
    site.body = body
    with pytest.raises(SettingError, match=words) as caught:
        discovery.endpoints(site.url, tmp_path)
    assert site.url in str(caught.value)
    assert not (tmp_path / discovery.FILE).exists()
