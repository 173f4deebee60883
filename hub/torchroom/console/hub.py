"""What the console asks the hub: who owns a token, and who is in a group."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from torchroom import hub_api
from torchroom.console.access import Identity
from torchroom.console.refusals import HubSilent, NotAllowed
from torchroom.hub_api import HubApi, json_of, part

log = logging.getLogger("torchroom.console")

CACHED_S = 30
CACHED_MAX = 10_000
ANSWERS_WITHIN_S = 10.0
_TOKEN = re.compile("[!-~]{1,512}")


class Hub:
    """Asks the hub; keeps answers about tokens for a short while.

    Args:
        api_url: Like "http://hub:8081/hub/api".
        token: The console's own.
        transport: For tests; the network if None.
        clock: Monotonic seconds.

    Raises:
        HubSilent: From every method that asks: the hub does not say.
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
        self._api = HubApi(
            api_url, token, within_s=ANSWERS_WITHIN_S, transport=transport
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def identify(self, token: str) -> Identity | None:
        """Return the owner of a token, None if the hub knows no such token.

        An answer is kept for CACHED_S: so long may a revoked token still be accepted.
        """
        if not _TOKEN.fullmatch(token):
            return None
        name = hashlib.sha256(token.encode()).digest()
        kept_until, identity = self._known.get(name, (0.0, None))
        if self._clock() < kept_until:
            return identity
        with _in_a_sentence():
            answer = await self._api.ask("GET", "/user", token=token)
            is_known = answer.status_code not in {401, 403}
            identity = _identity(json_of(answer)) if is_known else None
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
        """
        with _in_a_sentence():
            answer = await self._api.ask(
                "POST",
                "/oauth2/token",
                token="",
                data={
                    "client_id": client_id,
                    "client_secret": self._own_token,
                    "grant_type": "authorization_code",
                    "code": code,
                    "redirect_uri": redirect_uri,
                    "code_verifier": verifier,
                },
            )
            if answer.is_client_error:
                raise NotAllowed("The login did not work. Try it again.")
            return str(json_of(answer)["access_token"])

    async def groups(self) -> Mapping[str, tuple[str, ...]]:
        """Return the members of every group."""
        with _in_a_sentence():
            return {
                str(group["name"]): tuple(map(str, group["users"]))
                for group in await self._api.listing("/groups")
            }

    async def members(self, group: str) -> frozenset[str] | None:
        """Return who is in a group, None if there is no such group."""
        with _in_a_sentence():
            answer = await self._api.ask("GET", f"/groups/{part(group)}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                return None
            return frozenset(map(str, json_of(answer)["users"]))


@contextmanager
def _in_a_sentence() -> Iterator[None]:
    """Say that the hub is silent, or not understood, in a sentence for users.

    Raises:
        HubSilent: It is; an admin finds more in the log.
    """
    try:
        yield
    except (hub_api.HubSilent, KeyError, TypeError, ValueError) as error:
        log.error("the hub is not understood: %s: %s", type(error).__name__, error)
        raise HubSilent("The hub does not answer. Try again in a minute.") from error


def _identity(said: Any) -> Identity:
    """Return the owner of a token as `GET /user` describes it.

    Raises:
        KeyError, TypeError, ValueError: It describes nobody.
    """
    kind, name, scopes = said["kind"], said["name"], said["scopes"]
    if kind not in {"user", "service"} or not isinstance(name, str) or not name:
        raise ValueError(f"a token of {kind!r} {name!r}")
    groups = said.get("groups") or ()
    return Identity(kind, name, frozenset(map(str, scopes)), tuple(map(str, groups)))
