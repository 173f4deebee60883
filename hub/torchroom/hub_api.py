"""JupyterHub's REST API as the services of this application ask it.

The one place that knows its address, its time limits, its pages, and what a good answer
is. What the answers mean is known to who asks: torchroom.console.hub,
torchroom.steward.hub.
"""

from typing import Any
from urllib.parse import quote

import httpx

PAGE = 200
PAGES_MAX = 1000
SHOWN = 200  # characters of an answer that an error repeats
_PAGINATED = "application/jupyterhub-pagination+json"


class HubSilent(Exception):
    """The hub did not answer, or not as it must; nothing is known. A sentence."""


class HubApi:
    """One hub, asked by one service.

    Args:
        url: Like "http://hub:8081/hub/api".
        token: The service's own.
        within_s: How long an answer may take, unless it is said with the question.
        transport: For tests; the network if None.

    Raises:
        HubSilent: From every method that asks.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        within_s: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._token = token
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            timeout=within_s,
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(
        self, method: str, path: str, *, token: str | None = None, **more: Any
    ) -> httpx.Response:
        """Return the answer to a request, whatever its status.

        Args:
            method: Like "GET".
            path: Below `url`; names in it went through `part`.
            token: Somebody else's, "" for none; None: the service's own.
            more: See httpx: `params`, `json`, `data`, `headers`, `timeout`.
        """
        token = self._token if token is None else token
        headers = more.pop("headers", {})
        if token:
            headers = headers | {"Authorization": f"token {token}"}
        try:
            return await self._http.request(method, path, headers=headers, **more)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise HubSilent(f"The hub does not answer: {why}.") from error

    async def read(self, path: str) -> Any:
        """Return the JSON that the hub says of something."""
        return json_of(await self.ask("GET", path))

    async def listing(self, path: str, **params: str) -> list[Any]:
        """Return all of a list that the hub gives page by page.

        It may change between two pages, so that something is missing in it.
        """
        found: list[Any] = []
        offset = 0
        for _ in range(PAGES_MAX):
            answer = await self.ask(
                "GET",
                path,
                params=params | {"offset": str(offset), "limit": str(PAGE)},
                headers={"Accept": _PAGINATED},
            )
            try:
                page = json_of(answer)
                found += page["items"]
                more = page["_pagination"]["next"]
                if not more:
                    return found
                if int(more["offset"]) <= offset:
                    break
                offset = int(more["offset"])  # a hub may give less than it is asked for
            except (KeyError, TypeError, ValueError) as error:
                raise HubSilent(f"The hub's list {path} cannot be read.") from error
        raise HubSilent(f"The hub's list {path} does not end.")


def part(name: str) -> str:
    """Return a name as one part of a path, even if it consists of dots."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def json_of(answer: httpx.Response) -> Any:
    """Return what a good answer says.

    Raises:
        HubSilent: It is not a good one.
    """
    if answer.status_code != httpx.codes.OK:
        raise refused(answer)
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise HubSilent("The hub's answer is not JSON.") from error


def refused(answer: httpx.Response) -> HubSilent:
    """Return as an error that a request got an answer which it does not expect."""
    request = answer.request
    return HubSilent(
        f"The hub answered {answer.status_code} to {request.method} "
        f"{request.url.path}: {message_of(answer)}"
    )


def message_of(answer: httpx.Response) -> str:
    """Return what an answer says to people, as one line."""
    try:
        said = answer.json()["message"] or answer.reason_phrase
    except (ValueError, KeyError, TypeError, RecursionError):
        said = answer.text
    return " ".join(str(said).split())[:SHOWN]
