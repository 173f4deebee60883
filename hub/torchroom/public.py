"""Where people reach the hub: its public address, and what follows from it.

Standard library only, for `make up` reads the same settings on the host. The address is
the only thing that must be told: whether cookies are for https alone, how many proxies
stand in front and whether the hub is for this machine only all follow from it.

JupyterHub could guess the scheme and the host of every request from what the proxies
say about it. It is told instead: a guess is as good as the worst of the proxies.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from torchroom.settings import SettingError, one_of, within

URL = "TORCHROOM_PUBLIC_URL"
SUBDOMAINS = "TORCHROOM_SUBDOMAINS"
TLS = "TORCHROOM_TLS"
HTTP_PORT, HTTPS_PORT = "TORCHROOM_HTTP_PORT", "TORCHROOM_HTTPS_PORT"
CERTIFICATE, KEY = "TORCHROOM_TLS_CERT", "TORCHROOM_TLS_KEY"
ACME_EMAIL, ACME_DIRECTORY = "TORCHROOM_ACME_EMAIL", "TORCHROOM_ACME_DIRECTORY"
LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
PORTS = {"http": 80, "https": 443}
PORT_MAX = 65535
SAMPLE = "https://hub.school.edu"
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Public:
    """The address that people open.

    Attributes:
        scheme: "https", or "http" on this machine alone.
        host: A name in small letters or an address, without port and brackets.
        port: Also where the address does not name it.
        is_given: Somebody has set it; otherwise it is the proxy's on this machine.
        subdomains: Every user's servers, and every service, have a host name of their
            own below `host`.
    """

    scheme: str
    host: str
    port: int
    is_given: bool
    subdomains: bool

    @property
    def url(self) -> str:
        """The address, without a slash at its end."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """The host, and the port if browsers show it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host + self.port_suffix

    @property
    def port_suffix(self) -> str:
        """A colon and the port; nothing if it is the scheme's own."""
        return "" if self.port == PORTS[self.scheme] else f":{self.port}"

    @property
    def hub_url(self) -> str:
        """Of the hub's pages; ends with a slash."""
        return f"{self.url}/hub/"

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it by https."""
        return self.scheme == "https"

    @property
    def is_loopback(self) -> bool:
        """Whether it is for this machine only: then nothing listens elsewhere."""
        address = _address(self.host)
        if address is not None:
            return address.is_loopback
        return self.host == "localhost" or self.host.endswith(".localhost")

    @property
    def n_proxies(self) -> int:
        """How many proxies a request passes on its way to the hub.

        JupyterHub's own always; with https one that ends TLS is in front of it.
        """
        return 2 if self.is_secure else 1

    @property
    def jupyterhub(self) -> dict[str, Any]:
        """What JupyterHub must be told: traits of its application -> values."""
        cookies: dict[str, Any] = {"samesite": "Lax"}  # a login comes back from outside
        if self.is_secure:
            cookies["secure"] = True
        traits: dict[str, Any] = {
            "tornado_settings": {
                "cookie_options": cookies,
                # its pages carry the token in their text: no script reads the cookie
                "xsrf_cookie_kwargs": {**cookies, "httponly": True},
                "headers": {
                    "X-Content-Type-Options": "nosniff",
                    "Referrer-Policy": "same-origin",
                },
            }
        }
        if self.is_given:
            traits["public_url"] = f"{self.url}/"
        if self.subdomains:
            traits["subdomain_host"] = self.url
            # Cookies that a user's page on a host below cannot plant.
            traits["cookie_host_prefix_enabled"] = True
        return traits


@dataclass(frozen=True, slots=True)
class Tls:
    """How the deployment's own TLS proxy gets its certificate.

    Attributes:
        mode: "off" (there is none), "acme" or "files".
        http_port: Of this machine; leads to https.
        https_port: Of this machine.
        certificate: With "files": the certificate and its chain.
        key: With "files": the certificate's key.
        email: With "acme": where the authority writes to; may be "".
        directory: With "acme": the authority's address.
    """

    mode: str
    http_port: int
    https_port: int
    certificate: Path | None = None
    key: Path | None = None
    email: str = ""
    directory: str = ""


def read(env: Mapping[str, str]) -> Public:
    """Return the public address.

    Raises:
        SettingError: It is none, or one that would not be safe.
    """
    subdomains = one_of(env, SUBDOMAINS, ("0", "1")) == "1"
    given = env.get(URL) or ""
    port = within(env, "TORCHROOM_PORT", 8000, 1, PORT_MAX)
    parts = _parts(given or f"http://127.0.0.1:{port}")
    host = parts.hostname or ""
    public = Public(
        scheme=parts.scheme,
        host=host,
        port=parts.port or PORTS[parts.scheme],
        is_given=bool(given),
        subdomains=subdomains,
    )
    if not public.is_secure and not public.is_loopback:
        raise SettingError(
            f"{URL} is {given!r}; without https passwords cross the network for all to "
            "read, so only an address of this machine may begin with http."
        )
    if subdomains and not public.is_secure:
        raise SettingError(f"{SUBDOMAINS} needs https: set {URL}, like {SAMPLE}.")
    if subdomains and _address(host) is not None:
        raise SettingError(
            f"{SUBDOMAINS} needs a host name, and {URL} is {given!r}; users' names go "
            "before it."
        )
    return public


def read_tls(env: Mapping[str, str], public: Public) -> Tls:
    """Return where the TLS proxy of this deployment gets its certificate.

    Raises:
        SettingError: It cannot be had for this address, or something is missing.
    """
    mode = one_of(env, TLS, ("off", "acme", "files"))
    ports = (
        within(env, HTTP_PORT, PORTS["http"], 1, PORT_MAX),
        within(env, HTTPS_PORT, public.port, 1, PORT_MAX),
    )
    if mode == "off":
        return Tls(mode, *ports)
    if not public.is_given or not public.is_secure:
        raise SettingError(f"{TLS}={mode} needs an https address: {URL}={SAMPLE}")
    if mode == "acme":
        return Tls(mode, *ports, email=_email(env), directory=_authority(env, public))
    missing = [name for name in (CERTIFICATE, KEY) if not env.get(name)]
    if missing:
        raise SettingError(f"{TLS}=files needs {' and '.join(missing)}.")
    return Tls(mode, *ports, certificate=Path(env[CERTIFICATE]), key=Path(env[KEY]))


def _authority(env: Mapping[str, str], public: Public) -> str:
    if public.subdomains:
        raise SettingError(
            f"{SUBDOMAINS}=1 needs a certificate for *.{public.host}, and {TLS}=acme "
            "gets none for a star; get one by a DNS challenge and set "
            f"{TLS}=files (docs/https.md)."
        )
    is_name = _address(public.host) is None and "." in public.host
    if not is_name or public.is_loopback:
        raise SettingError(
            f"{TLS}=acme needs a host name that the whole internet knows, and {URL} is "
            f"{public.url!r}."
        )
    directory = env.get(ACME_DIRECTORY) or LETS_ENCRYPT
    if urlsplit(directory).scheme != "https" or re.search(r"[\s{}\"'`$]", directory):
        raise SettingError(
            f"{ACME_DIRECTORY} is {directory!r}; it must be an https address."
        )
    return directory


def _email(env: Mapping[str, str]) -> str:
    email = env.get(ACME_EMAIL) or ""
    if email and not _EMAIL.fullmatch(email):
        raise SettingError(f"{ACME_EMAIL} is {email!r}; it must be one mail address.")
    return email


def _parts(url: str) -> SplitResult:
    """Return an address in its parts.

    Raises:
        SettingError: It is not just scheme, host and port.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise SettingError(
            f"{URL} is {url!r}; it must be an address like {SAMPLE}."
        ) from error
    is_plain = url.isascii() and url.isprintable() and not parts.username
    if parts.scheme not in PORTS or not is_plain or not _is_host(parts.hostname or ""):
        raise SettingError(f"{URL} is {url!r}; it must be an address like {SAMPLE}.")
    if port == 0:
        raise SettingError(f"{URL} is {url!r}; its port must be from 1 to {PORT_MAX}.")
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise SettingError(
            f"{URL} is {url!r}; it must end after the host and the port: the hub has "
            "the whole address to itself."
        )
    return parts


def _is_host(host: str) -> bool:
    if _address(host) is not None:
        return True
    labels = host.split(".")
    # Four numbers that are no address are a mistyped one.
    return all(map(_LABEL.fullmatch, labels)) and not labels[-1].isdecimal()


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
