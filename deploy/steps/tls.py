"""https: what is wrong with a certificate is said before anything starts."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import ssl
import stat
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from toolbox.client import try_docker
from toolbox.console import Failure, say
from toolbox.places import ROOT

from steps import compose
from steps.settings import Settings

# The one reader of these settings; it needs no more than this Python either.
sys.path.insert(0, str(ROOT / "hub"))

from torchroom import public
from torchroom.settings import SettingError

REMOVE = (*compose.EVERY_PROFILE, "rm", "--stop", "--force", "tls")
HSTS_S = 365 * 24 * 3600
_WARN_DAYS = 14
_DAY_S = 24 * 3600
_SECONDS = {"files": 20, "acme": 90}
_NOBODY = "1000:1000"  # the image's user
_OTHER_KEY = {"KEY_VALUES_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}  # of its kind, or not


@dataclass(frozen=True)
class Site:
    """The address of this deployment, and how it is protected."""

    address: public.Public
    tls: public.Tls

    @property
    def has_tls(self) -> bool:
        """Whether the deployment has a TLS proxy of its own."""
        return self.tls.mode != "off"


def read(env: Mapping[str, str] = os.environ) -> Site:
    """Read the address and check the certificate; a mistake is a sentence."""
    try:
        where = public.read(env)
        site = Site(where, public.read_tls(env, where))
    except SettingError as error:
        raise Failure(
            str(error), "change it in .env; docs/https.md says more."
        ) from None
    if site.tls.mode == "files":
        check(_file(site.tls.certificate), _file(site.tls.key), where)
    return site


def variables(site: Site) -> dict[str, str]:
    """The variables for compose."""
    where, tls = site.address, site.tls
    values = {"TORCHROOM_TLS": tls.mode}
    if where.subdomains:
        values["TORCHROOM_PROXY_ROUTING"] = "--host-routing"
    if not site.has_tls:
        return values
    host = f"[{where.host}]" if ":" in where.host else where.host
    hosts = [host, f"*.{host}"] if where.subdomains else [host]
    below = "; includeSubDomains" if where.subdomains else ""
    values |= {
        # what is only for this machine must not listen on another address
        "TORCHROOM_TLS_ADDRESS": "127.0.0.1:" if where.is_loopback else "",
        "TORCHROOM_HTTP_PORT": str(tls.http_port),
        "TORCHROOM_HTTPS_PORT": str(tls.https_port),
        "TORCHROOM_TLS_HOST": where.host,
        "TORCHROOM_TLS_HTTP_SITES": ", ".join(f"http://{name}" for name in hosts),
        "TORCHROOM_TLS_HTTPS_SITES": ", ".join(f"https://{name}" for name in hosts),
        "TORCHROOM_TLS_PORT_SUFFIX": where.port_suffix,
        "TORCHROOM_TLS_HSTS": f"max-age={HSTS_S}{below}",
        "TORCHROOM_TLS_ACME_DIRECTORY": tls.directory,
    }
    if tls.mode == "files":
        certificate, key = _file(tls.certificate), _file(tls.key)
        digest = hashlib.sha256(certificate.read_bytes()).hexdigest()
        values |= {
            public.CERTIFICATE: str(certificate),
            public.KEY: str(key),
            "TORCHROOM_TLS_DIGEST": digest[:16],
            "TORCHROOM_TLS_USER": _reader(key),
            "TORCHROOM_TLS_DATA": "/tmp",  # noqa: S108 - in its container; kept nowhere
        }
    return values


def check(certificate: Path, key: Path, where: public.Public) -> None:
    """Fail with a sentence if browsers would not take this certificate.

    Whether they trust who signed it cannot be known here.
    """
    names = [where.host]
    if where.subdomains:
        names.append(f"user.{where.host}")
    server = _server(certificate, key)
    # The certificate itself is what is trusted: all but who signed it is looked at.
    client = ssl.create_default_context(cafile=certificate)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for name in names:
        try:
            seconds_left = _greet(client, server, name)
        except ssl.SSLError as error:
            raise Failure(
                f"browsers will not take the certificate for {name}: {_why(error)}",
                f"set {public.CERTIFICATE} to a valid one for this name"
                " (docs/https.md).",
            ) from None
    if seconds_left < _WARN_DAYS * _DAY_S:
        say(f"    the certificate ends in {seconds_left / _DAY_S:.1f} days: renew it")
    if not _has_chain(certificate) and not _is_known(server, where.host):
        say(
            "    the certificate comes without its chain, and this machine does not"
            f" know who signed it: append the chain to {certificate}"
        )


def wait(command: list[str], settings: Settings, site: Site) -> str:
    """Wait until https answers; return a sentence about how it does.

    A certificate from an authority may take longer: it is gotten in the background,
    and what keeps it from coming is said.
    """
    within_s = _SECONDS[site.tls.mode]
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if _answers(site):
            return site.address.url
        time.sleep(0.4)
    name = compose.run(command, settings, "ps", "--all", "--quiet", "tls").out.strip()
    why = last_words(name) if name else "its container is not there"
    if site.tls.mode == "acme":
        say(f"    there is no certificate yet: {why}")
        say(
            f"    {site.address.host} must lead to this machine, with ports 80 and 443"
            " open to the internet (docs/https.md); it goes on trying"
        )
        return "waiting for a certificate"
    raise Failure(
        f"https does not answer on port {site.tls.https_port}: {why}",
        f"read its log: docker logs {settings.project}-tls-1",
    )


def _file(name: Path | None) -> Path:
    """The whole path; a relative one begins in the repository."""
    return (ROOT / (name or "")).resolve()


def _server(certificate: Path, key: Path) -> ssl.SSLContext:
    for name, path in ((public.CERTIFICATE, certificate), (public.KEY, key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise Failure(
                f"{path} ({name}) cannot be read: {error.strerror}",
                "run this as a user who may read it, or as root.",
            ) from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except ssl.SSLError as error:
        if error.reason in _OTHER_KEY:
            what = f"the key {key} does not fit the certificate {certificate}"
        elif error.reason:
            what = f"{certificate} cannot be used: {_why(error)}"
        else:
            what = f"{certificate} and {key} are no certificate and its key in PEM form"
        raise Failure(
            what,
            f"set {public.CERTIFICATE} and {public.KEY} to two that fit; in its file"
            " the certificate comes first, then its chain.",
        ) from None
    return context


def _no_passphrase() -> str:
    raise Failure(
        f"the key ({public.KEY}) has a passphrase, and nobody is there to type it",
        "take it off: openssl pkey -in KEY -out KEY-WITHOUT",
    )


def _has_chain(certificate: Path) -> bool:
    return certificate.read_bytes().count(b"-----BEGIN CERTIFICATE-----") > 1


def _is_known(server: ssl.SSLContext, name: str) -> bool:
    """Whether this machine trusts who signed the certificate."""
    try:
        _greet(ssl.create_default_context(), server, name)
    except ssl.SSLError:
        return False
    return True


def _greet(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> float:
    """Let a browser's library look at the certificate; return its seconds left.

    The two talk in memory.

    Raises:
        ssl.SSLError: The client does not take it.
    """
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = client.wrap_bio(to_client, to_server, server_hostname=name)
    other = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):  # hello, hello, finished, finished
        for side in (one, other):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    ends = (one.getpeercert() or {}).get("notAfter", "")
    return ssl.cert_time_to_seconds(str(ends)) - time.time()


def _why(error: ssl.SSLError) -> str:
    """What the library says, without its own names and numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message.rstrip(".")
    return str(error.reason).replace("_", " ").lower()


def _reader(key: Path) -> str:
    """As whom a container can read the key: as its owner, where others cannot."""
    found = key.stat()
    if found.st_mode & stat.S_IROTH:
        return _NOBODY
    return f"{found.st_uid}:{found.st_gid}"


def _answers(site: Site) -> bool:
    """Whether the hub answers by https on this machine, with whatever certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    where = site.address
    try:
        with (
            socket.create_connection(("127.0.0.1", site.tls.https_port), 3) as plain,
            context.wrap_socket(plain, server_hostname=where.host) as sealed,
        ):
            connection = http.client.HTTPConnection(where.host)
            connection.sock = sealed
            connection.request("GET", "/hub/health", headers={"Host": where.netloc})
            return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def last_words(name: str) -> str:
    """The last thing that went wrong in a container of the TLS proxy, in its words."""
    log = try_docker("logs", "--tail", "200", name)
    told = [_row(line) for line in (log.out + log.err).splitlines()]
    wrong = [row for row in told if row.get("level") in {"error", "fatal"}]
    for row in reversed(wrong or told):
        if said := row.get("error") or row.get("msg"):
            return str(said)[:300]
    return "it said nothing"


def _row(line: str) -> Mapping[str, object]:
    try:
        row = json.loads(line)
    except ValueError:
        return {"msg": line.strip()}
    return row if isinstance(row, dict) else {}
