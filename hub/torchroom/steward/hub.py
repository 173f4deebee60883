"""The steward's client of JupyterHub's REST API, and of the plugin's beside it."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any
from urllib.parse import quote

import httpx

from torchroom.steward.model import Claim

ANSWERS_WITHIN_S = 20.0
STOPS_WITHIN_S = 60.0
PAGE = 200
PAGES_MAX = 1000
SHOWN = 200  # characters of an answer that an error repeats
_PAGINATED = "application/jupyterhub-pagination+json"


class HubSilent(Exception):
    """The hub did not answer, or not as it must; nothing is known. A sentence."""


class CalledOff(Exception):
    """The server is not to be stopped for this reason any more; a sentence why."""


class Stop(Enum):
    """What became of a request to stop a server."""

    STOPPED = auto()
    STOPPING = auto()
    NOT_THERE = auto()


class Hub:
    """Reads what runs, says why something ends, and ends it.

    Args:
        api_url: Like "http://hub:8081/hub/api".
        token: The steward's own.
        transport: For tests; the network if None.
    """

    def __init__(
        self,
        api_url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=api_url.rstrip("/"),
            headers={"Authorization": f"token {token}"},
            timeout=ANSWERS_WITHIN_S,
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def gpus(self) -> Any:
        """Return what the plugin says of GPUs and leases.

        Raises:
            HubSilent: See there.
        """
        return _json(await self._ask("GET", "/gpus"))

    async def users(self) -> list[Any]:
        """Return the users with a ready server, as the hub describes them.

        Raises:
            HubSilent: See there.
        """
        found: list[Any] = []
        offset = 0
        for _ in range(PAGES_MAX):
            answer = await self._ask(
                "GET",
                "/users",
                params={"state": "ready", "offset": offset, "limit": PAGE},
                headers={"Accept": _PAGINATED},
            )
            try:
                listing = _json(answer)
                found += listing["items"]
                more = listing["_pagination"]["next"]
                if not more:
                    return found
                if int(more["offset"]) <= offset:
                    break
                offset = int(more["offset"])  # a hub may give less than it is asked for
            except (KeyError, TypeError, ValueError) as error:
                raise HubSilent("The hub's list of users cannot be read.") from error
        raise HubSilent("The hub's list of users does not end.")

    async def say_why(self, claim: Claim) -> bool:
        """Tell the plugin why a server is about to be stopped.

        Returns:
            False if there is no such lease any more.

        Raises:
            CalledOff: It must not be stopped for this any more.
            HubSilent: See there.
        """
        answer = await self._ask(
            "POST",
            f"/leases/{_part(claim.lease)}/ending",
            json={
                "reason": claim.reason.value,
                "sentence": claim.sentence,
                "idle_since": claim.evidence.get("idle_since"),
            },
        )
        match answer.status_code:
            case httpx.codes.NO_CONTENT:
                return True
            case httpx.codes.NOT_FOUND:
                return False
            case httpx.codes.CONFLICT:
                raise CalledOff(_message(answer))
        raise _refused(answer)

    async def stop(self, user: str, server: str) -> Stop:
        """Stop a server.

        Args:
            user: Its owner.
            server: "" for the default server.

        Raises:
            HubSilent: See there.
        """
        path = f"/users/{_part(user)}/server"
        if server:
            path = f"/users/{_part(user)}/servers/{_part(server)}"
        answer = await self._ask("DELETE", path, timeout=STOPS_WITHIN_S)
        match answer.status_code:
            case httpx.codes.NO_CONTENT:
                return Stop.STOPPED
            case httpx.codes.ACCEPTED:
                return Stop.STOPPING
            case httpx.codes.NOT_FOUND:
                return Stop.NOT_THERE
        raise _refused(answer)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Mapping[str, object] | None = None,
        timeout: float = ANSWERS_WITHIN_S,  # noqa: ASYNC109 - httpx keeps it
    ) -> httpx.Response:
        try:
            return await self._http.request(
                method, path, params=params, headers=headers, json=json, timeout=timeout
            )
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise HubSilent(f"The hub does not answer: {why}.") from error


def _part(name: str) -> str:
    """Return a name as one part of a path, even if it consists of dots."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def _json(answer: httpx.Response) -> Any:
    if answer.status_code != httpx.codes.OK:
        raise _refused(answer)
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise HubSilent("The hub's answer is not JSON.") from error


def _refused(answer: httpx.Response) -> HubSilent:
    request = answer.request
    return HubSilent(
        f"The hub answered {answer.status_code} to {request.method} "
        f"{request.url.path}: {_message(answer)}"
    )


def _message(answer: httpx.Response) -> str:
    """Return what an answer says, as one line."""
    try:
        said = answer.json()["message"] or answer.reason_phrase
    except (ValueError, KeyError, TypeError, RecursionError):
        said = answer.text
    return " ".join(str(said).split())[:SHOWN]
