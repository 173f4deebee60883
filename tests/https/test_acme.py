"""Certificates from an ACME authority: gotten, kept over a restart, and renewed."""

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import docker
import pytest
from cryptography import x509
from docker.models.containers import Container
from steps import tls
from testbed.acme import Pebble, pebble
from testbed.certificates import Authority
from testbed.engine import wait_until
from testbed.https import Behind, client, tls_proxy
from torchroom import public

pytestmark = pytest.mark.docker

HERE = "127.0.0.1"
PORT = 8073
GETS_WITHIN_S = 60

Proxy = Callable[[Pebble, str], AbstractContextManager[Container]]


@pytest.fixture
def proxy(engine: docker.DockerClient) -> Iterator[Proxy]:
    """Runs the TLS proxy for a host; what it keeps is kept until the test ends."""
    volume = engine.volumes.create()

    def run(acme: Pebble, host: str) -> AbstractContextManager[Container]:
        site = tls.read(
            {
                public.URL: f"https://{host}",
                public.TLS: "acme",
                public.ACME_DIRECTORY: acme.directory,
                public.ACME_EMAIL: "admin@school.test",
            }
        )
        return tls_proxy(
            engine,
            tls.variables(site),
            upstream=f"{HERE}:{PORT}",
            network_mode="host",
            files={acme.trusted: "/run/trusted.pem"},
            environment={"SSL_CERT_FILE": "/run/trusted.pem"},
            data=str(volume.name),
        )

    yield run
    volume.remove(force=True)


def shown(host: str) -> x509.Certificate | None:
    """The certificate that a browser is shown for a host; None: none yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((HERE, 8443), 5) as plain,
            context.wrap_socket(plain, server_hostname=host) as sealed,
        ):
            return x509.load_der_x509_certificate(sealed.getpeercert(True) or b"")
    except OSError:
        return None


def certificate(host: str) -> x509.Certificate:
    """The certificate for a host, once there is one."""
    found = wait_until(
        lambda: shown(host), what=f"a certificate for {host}", within_s=GETS_WITHIN_S
    )
    assert found
    return found


async def test_a_certificate_is_gotten_and_kept(
    authority: Authority, tmp_path: Path, proxy: Proxy
) -> None:
    """Browsers take it; after a restart it is the same, for another name another."""
    host, other = "hub.school.test", "new.school.test"
    with (
        pebble(authority, tmp_path, valid_s=90 * 24 * 3600) as acme,
        Behind(HERE, PORT),
    ):
        with proxy(acme, host):
            first = certificate(host)
            async with (
                client(HERE, acme.root) as http,
                http.get(f"http://{host}/hub/login") as answer,  # and on to https
            ):
                assert answer.status == 200
                assert str(answer.url) == f"https://{host}/hub/login"
                assert "Strict-Transport-Security" in answer.headers
        with proxy(acme, host):
            assert certificate(host).serial_number == first.serial_number
        with proxy(acme, other):
            names = certificate(other).extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
            assert names.value.get_values_for_type(x509.DNSName) == [other]


def test_why_there_is_no_certificate_is_told(proxy: Proxy) -> None:
    """In the words of the TLS proxy; it serves nothing without one."""
    nobody = Pebble(f"https://{HERE}:1/dir", Path("/dev/null"), Path("/dev/null"))
    with proxy(nobody, "hub.school.test") as container:
        wait_until(
            lambda: "connection refused" in tls.last_words(str(container.id)),
            what="it says why",
            within_s=GETS_WITHIN_S,
        )
        assert shown("hub.school.test") is None


def test_a_certificate_that_has_ended_is_replaced(
    authority: Authority, tmp_path: Path, proxy: Proxy
) -> None:
    """When the proxy starts again after its end, without anybody's help.

    Before its end Caddy renews by a timer of its own, which is not waited for here.
    """
    host = "hub.school.test"
    with pebble(authority, tmp_path, valid_s=6) as acme:
        with proxy(acme, host):
            old = certificate(host)
        wait_until(
            lambda: datetime.now(UTC) > old.not_valid_after_utc,
            what="its end",
            within_s=30,
        )
        with proxy(acme, host):
            wait_until(
                lambda: certificate(host).serial_number != old.serial_number,
                what="a new certificate",
                within_s=GETS_WITHIN_S,
            )
