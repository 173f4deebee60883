"""How often somebody may try to log in: by name, and by the address they come from.

A class sits behind one address: the pace of an address is for hundreds of people.

Which address that is. The hub sees its proxy; that one appends who came to it to
X-Forwarded-For, and a TLS proxy before it does the same. Whoever asks may begin this
header with whatever they like, so the proxies are counted from its end. X-Real-Ip and
Forwarded are not looked at: anybody can send them, and tornado's `remote_ip`, which is
in the hub's log, believes the first. What connects to the hub past the proxy, as users'
servers can, is its own address if `servers` names their network; else it can name any.
"""

import ipaddress
import math
import time
from collections.abc import Callable

from gpuspawner.pacing import Limiter, Pace
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError

TOO_MANY_REQUESTS = 429
NAME_MAX = 255
WRONG_OF_NAME = Pace(10, 600)
"""Wrong passwords for one name from one address: nobody locks others out of theirs."""
WRONG_OF_ADDRESS = Pace(300, 600)
"""Wrong passwords from one address: a class of 200 that mistypes."""
LOGINS_OF_ADDRESS = Pace(1200, 60)
"""Beginnings of logins at an identity provider from one address."""
IPV6_OF_ONE_PLACE = 64


class LoginPace:
    """Refuses logins that come too fast; one per hub process.

    Attributes:
        n_proxies: How many proxies stand in front of the hub, see `Public.n_proxies`.
        servers: The network of users' servers; None: whoever connects is taken for
            the proxy.
        proxy: The proxy's address in it; "" if it has none there.
    """

    def __init__(
        self,
        *,
        n_proxies: int = 1,
        servers: ipaddress.IPv4Network | None = None,
        proxy: str = "",
        wrong_of_name: Pace = WRONG_OF_NAME,
        wrong_of_address: Pace = WRONG_OF_ADDRESS,
        logins_of_address: Pace = LOGINS_OF_ADDRESS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_proxies = n_proxies
        self.servers, self.proxy = servers, proxy
        self._of_name = Limiter(wrong_of_name)
        self._of_address = Limiter(wrong_of_address)
        self._logins = Limiter(logins_of_address)
        self._clock = clock

    def check_password(self, request: HTTPServerRequest, name: str) -> None:
        """Let a try pass, before its password is looked at.

        Raises:
            HTTPError: 429, with a sentence for who tried.
        """
        now, address = self._clock(), self.address(request)
        wait_s = max(
            self._of_name.wait_s(_key(name, address), now),
            self._of_address.wait_s(address, now),
        )
        if wait_s:
            raise _refusal(
                "There were too many wrong passwords for this name, or for any, from "
                f"your network. Try again in {_minutes(wait_s)}.",
                wait_s,
            )

    def password_failed(self, request: HTTPServerRequest, name: str) -> None:
        """Count a wrong password."""
        now, address = self._clock(), self.address(request)
        self._of_name.note(_key(name, address), now)
        self._of_address.note(address, now)

    def check_login(self, request: HTTPServerRequest) -> None:
        """Count a beginning of a login at the identity provider.

        Who comes back to a login that this browser began is not counted: nobody else
        can keep them from finishing.

        Raises:
            HTTPError: 429, with a sentence; this one is not counted.
        """
        now, address = self._clock(), self.address(request)
        wait_s = self._logins.wait_s(address, now)
        if wait_s:
            raise _refusal(
                "Too many people log in from your network right now. Try again in "
                f"{_minutes(wait_s)}.",
                wait_s,
            )
        self._logins.note(address, now)

    def is_from_server(self, request: HTTPServerRequest) -> bool:
        """Whether a program in a user's server asks, past the proxy or through it.

        The host itself has the network's first address: who opens a port that the
        proxy publishes may come from there.
        """
        host = next(iter(self.servers.hosts()), "") if self.servers else ""
        asking = {place(_peer(request)), self.address(request)}
        asking -= {self.proxy, str(host)}
        return any(self._is_server(address) for address in asking)

    def address(self, request: HTTPServerRequest) -> str:
        """Return where a request comes from, as far as our proxies saw it."""
        peer = _peer(request)
        if peer != self.proxy and self._is_server(peer):
            return place(peer)
        said = request.headers.get("X-Forwarded-For", "")
        return client(peer, said, self.n_proxies)

    def _is_server(self, peer: str) -> bool:
        try:
            found = ipaddress.ip_address(peer)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return self.servers is not None and found in self.servers


def client(peer: str, forwarded_for: str, n_proxies: int) -> str:
    """Return who the outermost of our proxies saw. Pure.

    Args:
        peer: Who connects to the hub.
        forwarded_for: The header, "" without one.
        n_proxies: How many entries of its end our proxies wrote.
    """
    entries = [part.strip() for part in forwarded_for.split(",")] if n_proxies else []
    if not n_proxies or len(entries) < n_proxies:
        return place(peer)
    return place(entries[-n_proxies], peer)


def place(address: str, instead: str = "") -> str:
    """Return an address as one place: of IPv6 the network, which one person has whole.

    Args:
        address: Maybe none: it was sent by somebody.
        instead: What counts if it is none.
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return place(instead) if instead else "nowhere"
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped:
        return str(found.ipv4_mapped)
    whole = ipaddress.ip_network((found.packed, IPV6_OF_ONE_PLACE), strict=False)
    return str(whole)


def _peer(request: HTTPServerRequest) -> str:
    """Return who connected; `remote_ip` is what a header may have made of it."""
    context = getattr(request.connection, "context", None)
    address = getattr(context, "address", None)
    return str(address[0]) if isinstance(address, tuple) and address else ""


def _key(name: str, address: str) -> str:
    return f"{address} {name.strip().lower()[:NAME_MAX]}"


def _minutes(wait_s: float) -> str:
    n_minutes = max(1, math.ceil(wait_s / 60))
    return "a minute" if n_minutes == 1 else f"{n_minutes} minutes"


def _refusal(sentence: str, wait_s: float) -> HTTPError:
    error = HTTPError(TOO_MANY_REQUESTS, sentence)
    error.jupyterhub_message = sentence  # type: ignore[attr-defined]
    error.headers = {"Retry-After": str(math.ceil(wait_s))}  # type: ignore[attr-defined]
    return error


PACE = LoginPace()
"""This hub's."""
