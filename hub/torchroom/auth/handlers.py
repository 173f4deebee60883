"""The way to the identity provider and back.

oauthenticator's handlers with what they leave open: a nonce, the issuer's name in the
answer (RFC 9207), a state of any shape, and pages that say how to go on.
"""

import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import urlsplit

from jupyterhub.utils import url_path_join
from oauthenticator.oauth2 import OAuthCallbackHandler, OAuthLoginHandler

from torchroom.auth import refusals

OTHER_ACCOUNT = "another"


class LoginHandler(OAuthLoginHandler):
    """/hub/oauth_login: sends a browser to the provider."""

    def get(self) -> None:
        """Begin a login; `?another=1` asks for another account than the one in use."""
        self.authenticator.count_login(self.request)
        super().get()

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


def _unpacked(state: str) -> dict[str, Any]:
    """Return what is in a state, nothing if it is none."""
    try:
        found = json.loads(base64.urlsafe_b64decode(state.encode("ascii")))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
