"""Top-ups: tokens paid for elsewhere, told by a signed message of the payment system.

The message is JSON: {"id": ..., "user": ..., "microtokens": ..., "note": ...}; `note`
may be left out. The id is the payment system's own; it is what makes a message that
comes again, for whatever reason, the same top-up.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from torchroom.ledger.amounts import check_amount
from torchroom.ledger.database import Database
from torchroom.ledger.errors import BadInput, NotFound
from torchroom.ledger.journal import record
from torchroom.ledger.keys import own_key, request_of
from torchroom.ledger.model import ISSUED, Code
from torchroom.ledger.names import check_name, check_note
from torchroom.ledger.posting import transfer, wallet_of_user
from torchroom.ledger.signatures import check

BODY_MAX = 16 * 1024
SECRET_MIN = 32
ID_MAX = 200
ACTOR = "service topup"
_REQUIRED = {"id", "user", "microtokens"}
_FIELDS = _REQUIRED | {"note"}
_WANTED = (
    'Send JSON like {"id": "payment-1", "user": "ada", "microtokens": 5000000}; '
    '"note" may be added, nothing else.'
)


@dataclass(frozen=True, slots=True)
class TopUp:
    """What a message tells."""

    id: str
    user: str
    microtokens: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Received:
    """What became of a message.

    Attributes:
        topup: What it told.
        transaction_id: Where it is recorded.
        is_new: False: it had come before, and nothing was done.
    """

    topup: TopUp
    transaction_id: int
    is_new: bool


class TopUps:
    """Takes signed messages.

    Args:
        db: The ledger.
        secret: Shared with the payment system; "": no messages are taken.

    Raises:
        BadInput: The secret is so short that it could be guessed.
    """

    def __init__(self, db: Database, secret: str) -> None:
        if secret and len(secret) < SECRET_MIN:
            raise BadInput(
                f"The secret for top-ups must have at least {SECRET_MIN} characters. "
                "Make one with `openssl rand -hex 32`."
            )
        self._db = db
        self._secret = secret

    async def receive(self, body: bytes, signature: str, now: datetime) -> Received:
        """Give a user what was paid for; the same id gives it once, and answers again.

        Args:
            body: The message, byte for byte.
            signature: See signatures.py.
            now: By this site's clock.

        Raises:
            NotFound: This site takes no top-ups.
            BadSignature: It does not come from who knows the secret, or not just now.
            BadInput: It is not such a message.
            KeyReused: The id came before with another user or amount.
        """
        if not self._secret:
            raise NotFound(
                "This site takes no top-ups: no secret for them is configured."
            )
        if len(body) > BODY_MAX:
            raise BadInput(f"The message is longer than {BODY_MAX} bytes. {_WANTED}")
        check(body, signature, self._secret, int(now.timestamp()))
        topup = parse(body)
        gift = transfer(
            Code.TOPUP,
            topup.microtokens,
            source=ISSUED,
            target=wallet_of_user(topup.user),
            key=own_key("topup", topup.id),
            at=now,
            request=request_of(topup.user, topup.microtokens),
            actor=ACTOR,
            note=topup.note,
        )
        recorded = (await self._db.run(lambda conn: record(conn, [gift])))[0]
        return Received(topup, recorded.id, recorded.is_new)


def parse(body: bytes) -> TopUp:
    """Return what a message tells, read strictly.

    Raises:
        BadInput: It is not such a message.
    """
    try:
        told = json.loads(
            body.decode("utf-8"),
            parse_float=_refuse,
            parse_constant=_refuse,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError) as error:
        raise BadInput(f"The message cannot be read. {_WANTED}") from error
    if not isinstance(told, dict) or not _REQUIRED <= told.keys() <= _FIELDS:
        raise BadInput(f"The message has not the right fields. {_WANTED}")
    return TopUp(
        id=_id(told["id"]),
        user=check_name(_text(told["user"], "user"), "A user's name"),
        microtokens=check_amount(told["microtokens"]),
        note=check_note(_text(told.get("note", ""), "note")),
    )


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; of a name that is there twice nobody can say which counts."""
    told = dict(pairs)
    if len(told) < len(pairs):
        raise ValueError("a name is there twice")
    return told


def _refuse(number: str) -> NoReturn:
    """Refuse what is no whole number: amounts must never have been floats."""
    raise ValueError(number)


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f'"{name}" must be text. {_WANTED}')
    return value


def _id(value: object) -> str:
    told = check_note(_text(value, "id"), "A top-up's id")
    if not 1 <= len(told) <= ID_MAX:
        raise BadInput(f"A top-up's id has 1 to {ID_MAX} characters.")
    return told
