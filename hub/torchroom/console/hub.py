"""The only client of JupyterHub's REST API: who owns a token, who is in a group."""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from torchroom.console.access import Identity
from torchroom.console.refusals import HubSilent, NotAllowed

CACHED_S = 30
CACHED_MAX = 10_000
ANSWERS_WITHIN_S = 10.0
PAGE = 200
PAGES_MAX = 1000
_TOKEN = re.compile("[!-~]{1,512}")
_PAGINATED = "application/jupyterhub-pagination+json"
_SILENT = "The hub does not answer. Try again in a minute."


class Hub:
    """Asks the hub; keeps answers about tokens for a short while.

    Args:
        api_url: Like "http://hub:8081/hub/api".
        token: The console's own.
        transport: For tests; the network if None.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        api_url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own_token = token
        self._clock = clock
        self._known: dict[bytes, tuple[float, Identity | None]] = {}
        self._http = httpx.AsyncClient(
            base_url=api_url.rstrip("/"),
            timeout=ANSWERS_WITHIN_S,
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def identify(self, token: str) -> Identity | None:
        """Return the owner of a token, None if the hub knows no such token.

        An answer is kept for CACHED_S: so long may a revoked token still be accepted.

        Raises:
            HubSilent: The hub does not say.
        """
        if not _TOKEN.fullmatch(token):
            return None
        name = hashlib.sha256(token.encode()).digest()
        kept_until, identity = self._known.get(name, (0.0, None))
        if self._clock() < kept_until:
            return identity
        answer = await self._get("/user", token)
        if answer.status_code in {401, 403}:
            identity = None
        else:
            identity = _identity(_json(answer))
        if len(self._known) >= CACHED_MAX:
            self._known.clear()
        self._known[name] = (self._clock() + CACHED_S, identity)
        return identity

    async def token_for(
        self, code: str, verifier: str, client_id: str, redirect_uri: str
    ) -> str:
        """Return the token that the hub gives for a code of its OAuth answer.

        Raises:
            NotAllowed: The hub gives none: the code is old, or not for this console.
            HubSilent: The hub does not answer.
        """
        try:
            answer = await self._http.post(
                "/oauth2/token",
                data={
                    "client_id": client_id,
                    "client_secret": self._own_token,
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": redirect_uri,
                    "code_verifier": verifier,
                },
            )
        except httpx.HTTPError as error:
            raise HubSilent(_SILENT) from error
        if answer.is_client_error:
            raise NotAllowed("Signing in did not work. Try it again.")
        try:
            return str(_json(answer)["access_token"])
        except (KeyError, TypeError) as error:
            raise HubSilent(_SILENT) from error

    async def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Return the members of every group.

        Raises:
            HubSilent: The hub does not say, or does not let the console read groups.
        """
        found: dict[str, tuple[str, ...]] = {}
        offset = 0
        for _ in range(PAGES_MAX):
            answer = await self._get(
                "/groups",
                self._own_token,
                params={"offset": offset, "limit": PAGE},
                headers={"Accept": _PAGINATED},
            )
            try:
                listing = _json(answer)
                for group in listing["items"]:
                    found[str(group["name"])] = tuple(map(str, group["users"]))
                more = listing["_pagination"]["next"]
                if not more:
                    return found
                offset = int(more["offset"])  # a hub may give less than it is asked for
            except (KeyError, TypeError, ValueError) as error:
                raise HubSilent(_SILENT) from error
        raise HubSilent("The hub has more groups than the console can read.")

    async def members(self, group: str) -> frozenset[str] | None:
        """Return who is in a group, None if there is no such group.

        Raises:
            HubSilent: The hub does not say.
        """
        answer = await self._get(f"/groups/{quote(group, safe='')}", self._own_token)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        try:
            return frozenset(map(str, _json(answer)["users"]))
        except (KeyError, TypeError) as error:
            raise HubSilent(_SILENT) from error

    async def _get(
        self,
        path: str,
        token: str,
        *,
        params: Mapping[str, int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        try:
            return await self._http.get(
                path,
                params=params,
                headers={**(headers or {}), "Authorization": f"token {token}"},
            )
        except httpx.HTTPError as error:
            raise HubSilent(_SILENT) from error


def _json(answer: httpx.Response) -> Any:
    """Return what a good answer says.

    Raises:
        HubSilent: It is not a good one.
    """
    if answer.status_code != httpx.codes.OK:
        raise HubSilent(_SILENT) from httpx.HTTPStatusError(
            f"status {answer.status_code}", request=answer.request, response=answer
        )
    try:
        return answer.json()
    except ValueError as error:
        raise HubSilent(_SILENT) from error


def _identity(said: Any) -> Identity:
    """Return the owner of a token as `GET /user` describes it."""
    try:
        kind, name, scopes = said["kind"], said["name"], said["scopes"]
    except (KeyError, TypeError) as error:
        raise HubSilent(_SILENT) from error
    if kind not in {"user", "service"} or not isinstance(name, str) or not name:
        raise HubSilent(_SILENT)
    groups = said.get("groups") or ()
    return Identity(kind, name, frozenset(map(str, scopes)), tuple(map(str, groups)))
