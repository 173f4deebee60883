"""The way to the identity provider and back.

oauthenticator's handlers with what they leave open: a nonce, the issuer's name in the
answer (RFC 9207), a state of any shape, a cookie that nobody plants, and pages that say
how to go on.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.utils import url_path_join
from oauthenticator.oauth2 import (
    STATE_COOKIE_NAME,
    OAuthCallbackHandler,
    OAuthLoginHandler,
)

from torchroom.auth import refusals

OTHER_ACCOUNT = "another"


class LoginHandler(OAuthLoginHandler):
    """/hub/oauth_login: sends a browser to the provider."""

    def get(self) -> None:
        """Begin a login; `?another=1` asks for another account than the one in use."""
        self.authenticator.count_login(self.request)
        super().get()

    def set_state_cookie(self, state_cookie_value: str) -> None:
        """Keep the login's state in this browser."""
        name = _state_cookie(self.settings)
        self._set_cookie(name, state_cookie_value, expires_days=1, httponly=True)

    def authorize_redirect(self, *args: Any, **kwargs: Any) -> None:
        """Add the nonce: what the code's verifier in the cookie hashes to."""
        asked = kwargs.setdefault("extra_params", {})
        if self.authenticator.jwks_url:
            asked["nonce"] = asked["code_challenge"]
        if self.get_argument(OTHER_ACCOUNT, ""):
            asked["prompt"] = self.authenticator.other_account_prompt
        super().authorize_redirect(*args, **kwargs)

    def _get_next_url(self) -> str | None:
        wanted = self.get_argument("next", None)
        try:
            urlsplit(wanted or "")
        except ValueError:
            return None
        found = super()._get_next_url()
        return str(found) if found else None


class CallbackHandler(OAuthCallbackHandler):
    """/hub/oauth_callback: a browser comes back from the provider."""

    _state_cookie: str | None = None

    async def get(self) -> None:
        """Log in whom the provider vouches for."""
        self.check_arguments()
        user = await self.login_user()
        if user is None:
            raise refusals.not_finished(self.authenticator.login_service, self.again)
        self.redirect(self.get_next_url(user))

    @property
    def again(self) -> str:
        """Where a login begins."""
        return str(url_path_join(self.hub.base_url, "oauth_login"))

    @property
    def nonce(self) -> str:
        """What the id_token of this login must carry."""
        verifier = str(_unpacked(self.get_state_cookie()).get("code_verifier", ""))
        digest = hashlib.sha256(verifier.encode()).digest()
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")

    def check_arguments(self) -> None:
        """Refuse what this browser did not begin, and then what the provider refused.

        In this order: nobody can have the hub show a text by a link.
        """
        self.check_state()
        self._check_issuer()
        if self.get_argument("error", "") or not self.get_argument("code", ""):
            said = ascii(self.get_argument("error", ""))[:100]
            self.log.warning("The provider did not finish a login: %s", said)
            raise refusals.not_finished(self.authenticator.login_service, self.again)

    def get_state_cookie(self) -> str:
        """Return the state that this browser began with, "" if none; it counts once."""
        if self._state_cookie is None:
            name = _state_cookie(self.settings)
            found = self.get_secure_cookie(name) or b""
            self._state_cookie = found.decode("utf8", "replace")
            self.clear_cookie(name)
        return self._state_cookie

    def check_state(self) -> None:
        """Refuse a state that is not the one in this browser's signed cookie."""
        begun = _unpacked(self.get_state_cookie()).get("state_id")
        came = _unpacked(self.get_argument("state", "")).get("state_id")
        if not (isinstance(begun, str) and isinstance(came, str) and begun) or not (
            hmac.compare_digest(begun.encode(), came.encode())
        ):
            raise refusals.lost(self.again)

    def _check_issuer(self) -> None:
        came = self.get_argument("iss", None)
        known = self.authenticator
        if came is None and not known.sends_issuer:
            return
        if came != known.issuer:
            self.log.warning("A login came back from another provider.")
            raise refusals.untrusted(known.login_service, self.again)


def _state_cookie(settings: Mapping[str, Any]) -> str:
    """Return the cookie's name, with a prefix where those of the hub's own have it.

    A browser takes such a cookie from this very host only. Else a student's page on a
    host below could plant the state of a login of its own, and whoever follows its link
    would be logged in as that student.
    """
    has_prefix = settings.get("cookie_host_prefix_enabled")
    return f"__Host-{STATE_COOKIE_NAME}" if has_prefix else STATE_COOKIE_NAME


def _unpacked(state: str) -> dict[str, Any]:
    """Return what is in a state, nothing if it is none."""
    try:
        found = json.loads(base64.urlsafe_b64decode(state.encode("ascii")))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
