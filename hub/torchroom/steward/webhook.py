"""Warnings and ends of servers as signed HTTP requests."""

import json
import time
from dataclasses import asdict, dataclass, field

import httpx

from torchroom.ledger.signatures import sign
from torchroom.steward.hooks import Undelivered
from torchroom.steward.model import Message

WITHIN_S = 15.0
ID, SIGNATURE = "X-Torchroom-Id", "X-Torchroom-Signature"
_AGAIN = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """Where requests go.

    Attributes:
        url: Whole; may contain a password.
        secret: Shared with the receiver; see torchroom.ledger.signatures.
    """

    url: str = field(repr=False)
    secret: str = field(repr=False)


def body(message: Message) -> bytes:
    """Return what is sent: one JSON object."""
    event = message.event
    shown = {
        "id": message.id,
        "action": event.action,
        "at": event.at.isoformat(),
        "user": event.user,
        "server": event.server,
        "lease": event.lease,
        "reason": event.reason,
        "sentence": event.sentence,
        "stops_at": message.stops_at and message.stops_at.isoformat(),
        "evidence": asdict(event)["evidence"],
    }
    return json.dumps(shown).encode()


class Webhook:
    """A receiver: sends everybody's news to one address.

    Args:
        settings: Which.
        transport: For tests; the network if None.
    """

    def __init__(
        self,
        settings: WebhookSettings,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._transport = transport

    def reaches(self, user: str) -> bool:
        """Return True: it is told about everybody."""
        return bool(user)

    async def send(self, message: Message) -> None:
        """Send; see Receiver."""
        content = body(message)
        signature = sign(content, [self._settings.secret], int(time.time()))
        headers = {
            "Content-Type": "application/json",
            ID: message.id,
            SIGNATURE: signature,
        }
        try:
            async with httpx.AsyncClient(
                timeout=WITHIN_S, transport=self._transport, trust_env=False
            ) as http:
                answer = await http.post(
                    self._settings.url, content=content, headers=headers
                )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Undelivered(f"{type(error).__name__}") from error
        if answer.is_success:
            return
        status = answer.status_code
        is_final = answer.is_client_error and status not in _AGAIN
        raise Undelivered(f"the receiver answered {status}", is_final=is_final)
