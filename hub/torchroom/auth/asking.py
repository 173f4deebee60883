"""Asks the identity provider who somebody is: at a login, and again later.

An id_token is checked whenever there is one; `sub` ties it to the userinfo. What is
decided from the answers is not here: see `authenticator` and `refresh`.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from typing import Any

from oauthenticator.oauth2 import OAuthenticator
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.web import HTTPError
from traitlets import Any as AnyTrait
from traitlets import Bool, Dict, Integer, List, Unicode, default

from torchroom.auth import claims, tokens
from torchroom.auth.answers import (
    ENDS_AT,
    Expired,
    Found,
    Kept,
    Refused,
    Unreachable,
    to_keep,
)

ANSWER_MAX = 1_000_000
N_REQUESTS = 64
UNAUTHORIZED, FORBIDDEN = 401, 403
EARLY_S, YEARS_S = 60, 10 * 366 * 86_400
KEYS_AGAIN_S = 10
"""Keys are not asked for more often, whatever tokens name."""


class AskingAuthenticator(OAuthenticator):
    """Whoever logs in, and is asked about again, at one identity provider."""

    issuer = Unicode("", config=True, help="The provider's own name.")
    jwks_url = Unicode("", config=True, help='Its keys; "": it is no OpenID provider.')
    algorithms = List(Unicode(), config=True, help="How it signs id_tokens.")
    sends_issuer = Bool(False, config=True, help="It says its name on the way back.")
    groups_claim = Unicode("", config=True, help="The claim with the groups.")
    subject_claim = Unicode("sub", config=True, help="The claim that never changes.")
    required_claims = Dict(
        config=True, help="Claims that must have one of a few values."
    )
    timeout_s = Integer(10, config=True, help="How long it has for an answer.")
    clock = AnyTrait(time.time)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._keys: dict[str, Any] = {}
        self._keys_at = -1e9
        self._keys_lock = asyncio.Lock()

    @default("http_client")
    def _default_http_client(self) -> AsyncHTTPClient:
        return AsyncHTTPClient(
            force_instance=True,
            max_clients=N_REQUESTS,
            max_body_size=ANSWER_MAX,
            defaults={
                "connect_timeout": self.timeout_s,
                "request_timeout": self.timeout_s,
                "follow_redirects": False,
                "validate_cert": self.validate_server_cert,
            },
        )

    async def found_fresh(self, state: dict[str, Any], kept: Kept) -> Found:
        """Ask with what there is: the access token, then the refresh token.

        Args:
            state: Gets a new refresh token, whatever else is wrong.
            kept: What the last answer was.

        Raises:
            Unreachable: It does not answer, or with nonsense.
            Refused: The session is over, by its word.
            Expired: There is nothing left to ask with.
            TokenError: The new id_token is not the account's own.
            ClaimError: What it says cannot be used.
        """
        told = dict(state.get("token_response") or {})
        gone: Expired = Expired("there is no access token, and no refresh token")
        if self.userdata_url and told.get("access_token"):
            try:
                found = await self._found_again(told, kept)
            except Expired as error:
                gone = self._why_over(told, error)
            else:
                if found.groups is not None or not kept.only_in_token:
                    return found
                gone = Expired("the groups came in the id_token alone")
        refresh_token = told.get("refresh_token")
        if not refresh_token:
            raise gone
        params = self.build_refresh_token_request_params(refresh_token)
        try:
            renewed = await self.get_token_info(None, params)
            # the old one may be used up, and would be refused the next time
            newest = {"refresh_token": renewed.get("refresh_token") or refresh_token}
            state["token_response"] = newest
            found = await self._found_again(renewed | newest, kept)
        except Expired as error:
            raise Refused(str(error)) from error
        if found.groups is None and kept.only_in_token:
            raise Expired("the groups came in the id_token, and no new one came")
        return found

    def _why_over(self, told: Mapping[str, Any], error: Expired) -> Expired:
        """Return what it means that an access token is taken no more."""
        ends_at = told.get(ENDS_AT)
        if isinstance(error, Refused):
            return error
        # GitHub's, and only those, never end by themselves: somebody ended it
        is_early = not self.jwks_url
        if isinstance(ends_at, int | float):
            is_early = self.clock() < ends_at - EARLY_S
        if is_early and error.status == UNAUTHORIZED:
            return Refused(f"{error} to an access token that is not over yet")
        return Expired(f"{error} to the access token, and there is no refresh token")

    async def _found_again(self, told: Mapping[str, Any], kept: Kept) -> Found:
        """Return what it says of the account that logged in.

        Raises:
            Refused: It is another's.
        """
        found = await self.found(told, absent=kept.token_claims)
        if found.subject != kept.subject:
            raise Refused("answered for another account")
        return found

    async def found(
        self,
        told: Mapping[str, Any],
        *,
        nonce: str | None = None,
        absent: frozenset[str] = frozenset(),
    ) -> Found:
        """Return what the provider says of the account that a token is for.

        Args:
            told: What came with the token.
            nonce: Of this login; None at a refresh.
            absent: Required claims that need not be there: they are in id_tokens
                alone, and the account had them at its login.

        Raises:
            Unreachable: It does not answer, or with nonsense.
            Expired: The token is over.
            TokenError: The id_token is not the account's own.
            ClaimError: What it says cannot be used.
        """
        proven: dict[str, Any] = {}
        if self.jwks_url and (nonce is not None or told.get("id_token") is not None):
            proven = await self._proven(told.get("id_token"), nonce)
        said: Any = {}
        if self.userdata_url:
            said = await self.token_to_user(told)
            if not isinstance(said, dict):
                raise Unreachable("answered with something that is no account")
            if proven and said.get("sub") != proven["sub"]:
                raise tokens.TokenError("the userinfo is another account's")
        known = {**proven, **said}
        unsaid = {x for x in self.required_claims if claims.find(said, x) is None}
        required = {
            name: values
            for name, values in self.required_claims.items()
            if name not in absent or claims.find(known, name) is not None
        }
        wrong = claims.missing(known, required)
        if wrong:
            raise claims.ClaimError(
                f"This hub takes no accounts like yours (its {wrong!r} is another)."
            )
        groups = await self._groups(known, told)
        elsewhere = self.groups_claim and claims.find(said, self.groups_claim) is None
        return Found(
            subject=claims.subject_of(known, self.subject_claim),
            claims=known,
            groups=groups,
            only_in_token=bool(elsewhere and proven and groups is not None),
            # without a userinfo each answer is an id_token, and has all of them
            token_claims=frozenset(unsaid if self.userdata_url else ()),
            tokens=to_keep(told),
        )

    async def _groups(
        self, known: Mapping[str, Any], _told: Mapping[str, Any]
    ) -> frozenset[str] | None:
        return claims.groups_of(known, self.groups_claim) if self.groups_claim else None

    async def _proven(self, token: Any, nonce: str | None) -> dict[str, Any]:
        """Return what an id_token says, once it is sure that it is genuine."""

        def checked() -> dict[str, Any]:
            return tokens.verified(
                token,
                self._keys,
                issuer=self.issuer,
                client_id=self.client_id,
                algorithms=self.algorithms,
                nonce=nonce,
            )

        if token is None:
            raise tokens.TokenError("none came")
        with contextlib.suppress(tokens.UnknownKey):
            return checked()
        async with self._keys_lock:
            with contextlib.suppress(tokens.UnknownKey):
                return checked()  # another login has fetched them
            if time.monotonic() - self._keys_at > KEYS_AGAIN_S:
                try:
                    keys = await self.httpfetch(self.jwks_url, "asking for its keys")
                except Expired as error:  # that says nothing of anybody's session
                    raise Unreachable(f"{error} to who asks for its keys") from error
                self._keys_at = time.monotonic()
                self._keys = keys if isinstance(keys, dict) else {}
        return checked()

    async def get_token_info(
        self, handler: Any, params: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return what the provider gives for a code or a refresh token.

        Raises:
            Unreachable: It does not answer, or with nonsense.
            Expired: It takes them no more.
        """
        told = None
        with contextlib.suppress(
            HTTPError, TypeError
        ):  # it answered with something else
            told = await super().get_token_info(handler, params)
        if not isinstance(told, dict) or not isinstance(told.get("access_token"), str):
            raise Expired("gave no access token")
        kind, counts_s = told.get("token_type"), told.get("expires_in")
        told |= {"token_type": kind if isinstance(kind, str) else "Bearer"}
        told.pop(ENDS_AT, None)
        if isinstance(counts_s, int) and 0 < counts_s < YEARS_S:
            told[ENDS_AT] = self.clock() + counts_s
        return told

    async def httpfetch(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """Ask the provider something.

        Raises:
            Unreachable: It does not answer, or not as it should, or not to this hub.
            Expired: It refuses the token.
        """
        try:
            return await super().httpfetch(url, *args, **kwargs)
        except HTTPClientError as error:
            if _refuses_hub(error):
                why = "refuses the hub's client ID or secret"
                raise Unreachable(why) from error
            busy = error.code in {408, 425, 429} or _is_limit(error)
            if 400 <= error.code < 500 and not busy:  # noqa: PLR2004 - HTTP's own words
                raise Expired(f"answers {error.code}", error.code) from error
            raise Unreachable(f"answers {error.code}") from error
        except (OSError, ValueError, RecursionError, TypeError) as error:
            raise Unreachable(f"does not answer as it should ({error})") from error


def _is_limit(error: HTTPClientError) -> bool:
    """Whether it was asked too much: GitHub says that with 403."""
    if error.code != FORBIDDEN or error.response is None:
        return False
    headers = error.response.headers
    return "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"


def _refuses_hub(error: HTTPClientError) -> bool:
    """Whether the hub itself is refused, which says nothing of anybody's session."""
    body = error.response.body if error.response is not None else b""
    try:
        said = json.loads(body)["error"]
    except (LookupError, TypeError, ValueError, RecursionError):
        return False
    return said in ("invalid_client", "unauthorized_client")
