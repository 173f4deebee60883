"""Compose itself reads what ``make up`` gives it about https."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from steps import tls
from testbed.certificates import Authority
from torchroom import public

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(sys.executable).parent / "docker-compose"
HOST = "hub.school.edu"


def services(env: dict[str, str]) -> dict[str, Any]:
    """The services that compose would start for these settings."""
    site = tls.read(env)
    told = tls.variables(site) | env
    for insisted in ("CONFIGPROXY_AUTH_TOKEN", "TORCHROOM_VERSION"):
        told[insisted] = "1"
    kept = {n: v for n, v in os.environ.items() if not n.startswith("TORCHROOM_")}
    profile = ["--profile", "https"] if site.has_tls else []
    done = subprocess.run(
        [
            *(str(COMPOSE), "--file", str(ROOT / "docker-compose.yml")),
            *(*profile, "config", "--format", "json"),
        ],
        check=False,
        capture_output=True,
        text=True,
        env=kept | told | {"TORCHROOM_USER_IMAGE": "image"},
    )
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)["services"]
    return read


def with_files(authority: Authority, host: str, url: str) -> dict[str, str]:
    """Settings for a certificate of one's own."""
    certificate, key = authority.issue(host)
    return {
        public.URL: url,
        public.TLS: "files",
        public.CERTIFICATE: str(certificate),
        public.KEY: str(key),
    }


def test_without_https_there_is_no_tls_proxy() -> None:
    """And the hub is told nothing of an address."""
    found = services({})
    assert "tls" not in found
    assert found["hub"]["environment"][public.URL] == ""


def test_for_everybody_it_listens_everywhere(authority: Authority) -> None:
    """On the two ports, which may be others; the proxy's own port does not."""
    env = with_files(authority, HOST, f"https://{HOST}:8443")
    found = services(env | {public.HTTP_PORT: "8080"})
    ports = {row["published"]: row for row in found["tls"]["ports"]}
    assert set(ports) == {"8080", "8443"}
    assert all("host_ip" not in row for row in ports.values())
    assert [row["host_ip"] for row in found["proxy"]["ports"]] == ["127.0.0.1"]
    assert found["hub"]["environment"][public.URL] == f"https://{HOST}:8443"
    assert found["tls"]["command"] == ["files.Caddyfile"]


def test_for_this_machine_it_listens_here(authority: Authority) -> None:
    """The login with generated passwords is still good then."""
    host = "hub.localhost"
    found = services(with_files(authority, host, f"https://{host}"))
    assert {row["host_ip"] for row in found["tls"]["ports"]} == {"127.0.0.1"}


@pytest.mark.parametrize("email", ["", "a@school.edu"])
def test_with_acme_no_file_of_the_host_is_in_it(email: str) -> None:
    """Certificates are kept in a volume, which is the image's user's."""
    env = {public.URL: f"https://{HOST}", public.TLS: "acme", public.ACME_EMAIL: email}
    proxy = services(env)["tls"]
    assert proxy["command"] == ["acme.Caddyfile"]
    assert proxy["user"] == "1000:1000"
    assert proxy["environment"]["TLS_ACME_EMAIL"] == email
    assert proxy["environment"]["TLS_ACME_DIRECTORY"] == public.LETS_ENCRYPT
    mounts = {row["target"]: row["source"] for row in proxy["volumes"]}
    assert mounts["/data"] == "tls"
    assert mounts["/run/torchroom/key.pem"] == "/dev/null"
