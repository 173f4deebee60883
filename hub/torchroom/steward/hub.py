"""What the steward asks of the hub: what runs, and that a server ends, and why."""

from enum import Enum, auto
from typing import Any

import httpx

from torchroom.hub_api import HubApi, message_of, part, refused
from torchroom.steward.model import Claim

ANSWERS_WITHIN_S = 20.0
STOPS_WITHIN_S = 60.0


class CalledOff(Exception):
    """The server is not to be stopped for this reason any more; a sentence why."""


class Stop(Enum):
    """What became of a request to stop a server."""

    STOPPED = auto()
    STOPPING = auto()
    NOT_THERE = auto()


class Hub:
    """JupyterHub and the plugin beside it.

    Args:
        api_url: Like "http://hub:8081/hub/api".
        token: The steward's own.
        transport: For tests; the network if None.

    Raises:
        HubSilent: From every method that asks: see torchroom.hub_api.
    """

    def __init__(
        self,
        api_url: str,
        token: str,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._api = HubApi(
            api_url, token, within_s=ANSWERS_WITHIN_S, transport=transport
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def gpus(self) -> Any:
        """Return what the plugin says of GPUs and leases."""
        return await self._api.read("/gpus")

    async def users(self) -> list[Any]:
        """Return the users with a ready server, as the hub describes them."""
        return await self._api.listing("/users", state="ready")

    async def say_why(self, claim: Claim) -> bool:
        """Tell the plugin why a server is about to be stopped.

        Returns:
            False if there is no such lease any more.

        Raises:
            CalledOff: It must not be stopped for this any more.
        """
        answer = await self._api.ask(
            "POST",
            f"/leases/{part(claim.lease)}/ending",
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
                raise CalledOff(message_of(answer))
        raise refused(answer)

    async def stop(self, user: str, server: str) -> Stop:
        """Stop a server.

        Args:
            user: Its owner.
            server: "" for the default server.
        """
        path = f"/users/{part(user)}/server"
        if server:
            path = f"/users/{part(user)}/servers/{part(server)}"
        answer = await self._api.ask("DELETE", path, timeout=STOPS_WITHIN_S)
        match answer.status_code:
            case httpx.codes.NO_CONTENT:
                return Stop.STOPPED
            case httpx.codes.ACCEPTED:
                return Stop.STOPPING
            case httpx.codes.NOT_FOUND:
                return Stop.NOT_THERE
        raise refused(answer)
