"""Logging in to the page with the hub: OAuth with state and PKCE, and short sessions.

The browser holds a random session id only. The hub's token for the page stays in this
process: after a restart the hub signs the user in again, without asking. It is checked
with the hub at every look, so who signs out of the hub is signed out here.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

SESSIONS_MAX = 10_000
SESSIONS_OF_USER_MAX = 20
SESSION_S = 12 * 3600
LOGIN_S = 600
ID_BYTES = 32
STATE_BYTES = 24
VERIFIER_BYTES = 48


@dataclass(slots=True)
class Session:
    """A signed-in browser.

    Attributes:
        token: The hub's, for this user and this page.
        until: Monotonic seconds.
        user: Whose it is; "": it was never found out.
        form_key: Every form of this session carries it, no other site knows it.
        notice: A sentence to show once.
        is_good_news: Whether the notice is about something that worked.
    """

    token: str
    until: float
    user: str = ""
    form_key: str = field(default_factory=lambda: secrets.token_urlsafe(ID_BYTES))
    notice: str = ""
    is_good_news: bool = True


class Sessions:
    """The sessions of this process, at most SESSIONS_MAX; the oldest goes first.

    And at most SESSIONS_OF_USER_MAX of one user, whose own oldest goes first: nobody
    signs others out.
    """

    def __init__(self) -> None:
        self._by_digest: dict[bytes, Session] = {}

    def begin(self, token: str, now_s: float, user: str = "") -> str:
        """Return the id of a new session."""
        mine = [key for key, row in self._by_digest.items() if row.user == user]
        if len(mine) >= SESSIONS_OF_USER_MAX:
            del self._by_digest[mine[0]]
        while len(self._by_digest) >= SESSIONS_MAX:
            del self._by_digest[next(iter(self._by_digest))]
        name = secrets.token_urlsafe(ID_BYTES)
        self._by_digest[_digest(name)] = Session(token, now_s + SESSION_S, user)
        return name

    def find(self, name: str, now_s: float) -> Session | None:
        """Return the session with this id, None if there is none or it is over."""
        session = self._by_digest.get(_digest(name))
        return session if session and now_s < session.until else None

    def end(self, name: str) -> None:
        """Forget a session."""
        self._by_digest.pop(_digest(name), None)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way to the hub and back. The browser keeps it in a cookie meanwhile."""

    state: str
    verifier: str

    @classmethod
    def new(cls) -> "Attempt":
        """Return one that nobody can guess."""
        return cls(
            secrets.token_urlsafe(STATE_BYTES), secrets.token_urlsafe(VERIFIER_BYTES)
        )

    @classmethod
    def of(cls, cookie: str) -> "Attempt":
        """Return what a cookie says; an empty one fits nothing."""
        state, _, verifier = cookie.partition(".")
        return cls(state, verifier)

    @property
    def cookie(self) -> str:
        """What `of` reads."""
        return f"{self.state}.{self.verifier}"

    def fits(self, state: str) -> bool:
        """Whether the hub's answer belongs to this browser's attempt."""
        return bool(self.state) and hmac.compare_digest(
            self.state.encode(), state.encode()
        )

    def query(self, client_id: str, redirect_uri: str) -> str:
        """Return what is asked of the hub."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        asked: dict[str, Any] = {
            "client_id": client_id,
            "redirect_uri": redirect_uri,
            "response_type": "code",
            "state": self.state,
            "code_challenge": base64.urlsafe_b64encode(digest).decode().rstrip("="),
            "code_challenge_method": "S256",
        }
        return urlencode(asked)


def _digest(name: str) -> bytes:
    # Looked up by digest: the time it takes tells nothing about any id.
    return hashlib.sha256(name.encode(errors="replace")).digest()
