"""Voucher codes: printed by admins, worth their tokens to the first who redeems them.

A code is shown once, when it is made; the ledger keeps its SHA-256. A refusal does not
say whether there is such a code, and who guesses is stopped after five failures in ten
minutes, counted in the database for all processes together.
"""

import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from torchroom.ledger.amounts import check_amount
from torchroom.ledger.codes import code_of, digest_of
from torchroom.ledger.cursors import LIMIT_MAX, check_limit
from torchroom.ledger.database import EPOCH, Database, micros, moment
from torchroom.ledger.errors import BadInput, LedgerError, NotFound, VoucherRefused
from torchroom.ledger.journal import find, record
from torchroom.ledger.keys import asked_key, request_of
from torchroom.ledger.model import ISSUED, Code
from torchroom.ledger.names import check_actor, check_name, check_note
from torchroom.ledger.posting import transfer, wallet_of_user
from torchroom.ledger.purses import check_earmark, check_in_future
from torchroom.ledger.tables import NEVER, redemptions
from torchroom.ledger.tables import vouchers as table
from torchroom.ledger.tries import add_try, take_turns, too_many

N_MAX = 500
ID_BYTES = 8
_ID = re.compile(r"vc_[0-9a-f]{16}", re.ASCII)
_CURSOR = re.compile(r"(\d{1,18})\.(vc_[0-9a-f]{16})", re.ASCII)


@dataclass(frozen=True, slots=True)
class NewVoucher:
    """A voucher that was just made. Nobody can be told its code again."""

    id: str
    code: str


@dataclass(frozen=True, slots=True)
class Voucher:
    """A voucher as admins see it.

    Attributes:
        id: For admins; the code does not follow from it.
        amount: Microtokens.
        course: What the tokens are for, "" for any server.
        expires_at: Until when it can be redeemed, None: for ever.
        tokens_expire_at: Until when its tokens are available, None: for ever.
        note: For people.
        actor: Who made it.
        created_at: When.
        revoked_at: Since when it is worth nothing, None: it was not revoked.
        redeemed_by: Who got the tokens, "" if nobody has.
        redeemed_at: When.
    """

    id: str
    amount: int
    course: str
    expires_at: datetime | None
    tokens_expire_at: datetime | None
    note: str
    actor: str
    created_at: datetime
    revoked_at: datetime | None
    redeemed_by: str
    redeemed_at: datetime | None


@dataclass(frozen=True, slots=True)
class VoucherPage:
    """Some vouchers, newest first, and where to go on; None: these were the last."""

    items: tuple[Voucher, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Redemption:
    """What a user got for a code.

    Attributes:
        amount: Microtokens.
        course: What they are for, "" for any server.
        expires_at: Until when they are available, None: for ever.
        transaction_id: Where it is recorded.
        is_new: False: this is the answer to the same request as before.
    """

    amount: int
    course: str
    expires_at: datetime | None
    transaction_id: int
    is_new: bool


class Vouchers:
    """All vouchers of a ledger.

    Args:
        db: The ledger.
        random: So many bytes of a cryptographic source.
    """

    def __init__(
        self, db: Database, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._db = db
        self._random = random

    async def create(
        self,
        n: int,
        amount: int,
        *,
        actor: str,
        at: datetime,
        expires_at: datetime | None = None,
        tokens_expire_at: datetime | None = None,
        course: str = "",
        note: str = "",
    ) -> Sequence[NewVoucher]:
        """Make n vouchers of the same kind; their codes are in the answer only.

        Args:
            n: 1 to N_MAX.
            amount: Microtokens of each.
            actor: Who asks.
            at: Now.
            expires_at: From then on they cannot be redeemed.
            tokens_expire_at: From then on their tokens are not available.
            course: Their tokens are for its servers only; "" for any.
            note: For people: it is on the statement of who redeems one.

        Raises:
            BadInput: Something cannot be used.
            NotFound: There is no such course.
        """
        if not 1 <= n <= N_MAX:
            raise BadInput(f"Make 1 to {N_MAX} vouchers at a time.")
        check_in_future(expires_at, at)
        check_in_future(tokens_expire_at, at)
        row = {
            "amount": check_amount(amount),
            "course": check_name(course, "A course's name") if course else "",
            "expires_at": micros(expires_at),
            "tokens_expire_at": micros(tokens_expire_at),
            "note": check_note(note),
            "actor": check_actor(actor),
            "created_at": micros(at),
        }
        made = [
            NewVoucher(f"vc_{self._random(ID_BYTES).hex()}", code_of(self._random(10)))
            for _ in range(n)
        ]
        rows = [row | {"id": new.id, "digest": digest_of(new.code)} for new in made]

        async def work(conn: AsyncConnection) -> None:
            await check_earmark(conn, course)
            await conn.execute(insert(table), rows)

        await self._db.run(work)
        return made

    async def redeem(
        self, user: str, code: str, *, key: str, at: datetime
    ) -> Redemption:
        """Give a user the tokens of a code, which then is worth nothing any more.

        Args:
            user: Who typed it.
            code: As it was typed.
            key: Idempotency key: the same request again gets the same answer.
            at: Now.

        Raises:
            VoucherRefused: There is no such code, or it is used up, revoked or
                expired; the text does not say which.
            TooManyTries: This user failed too often of late.
            KeyReused: The key belongs to another request.
        """
        check_name(user, "A user's name")
        key = asked_key(user, key)
        digest = digest_of(code)
        if digest is None:  # it cannot be a guess, so it does not count as one
            raise VoucherRefused(
                "That is not a code. Codes look like TR-XXXX-XXXX-XXXX-XXXX: look for "
                "a letter that is missing or there twice."
            )
        request = request_of(user, digest)

        async def work(conn: AsyncConnection) -> Redemption | LedgerError:
            await take_turns(conn, user)
            known = await find(conn, key, code=Code.VOUCHER, request=request)
            if known:
                query = select(table).where(table.c.digest == digest)
                used = (await conn.execute(query)).one()
                return _redemption(used, known.id, is_new=False)
            refusal = await too_many(conn, user, at)
            if refusal:
                return refusal
            row = await _valid(conn, digest, at)
            if row is None:
                await add_try(conn, user, at)
                return VoucherRefused(
                    "This code cannot be redeemed: it is mistyped, expired or used "
                    "already. Compare it letter by letter, or ask who gave it to you."
                )
            gift = transfer(
                Code.VOUCHER,
                row.amount,
                source=ISSUED,
                target=wallet_of_user(
                    user, course=row.course, expires_at=moment(row.tokens_expire_at)
                ),
                key=key,
                at=at,
                request=request,
                actor=user,
                note=row.note,
            )
            recorded = (await record(conn, [gift]))[0]
            await conn.execute(
                insert(redemptions).values(
                    voucher_id=row.id,
                    transaction_id=recorded.id,
                    user=user,
                    at=micros(at),
                )
            )
            return _redemption(row, recorded.id, is_new=True)

        answer = await self._db.run(work)
        if isinstance(answer, LedgerError):  # raised here: the failure stays counted
            raise answer
        return answer

    async def list(
        self, *, limit: int = LIMIT_MAX, cursor: str | None = None
    ) -> VoucherPage:
        """Return a page of vouchers, newest first; never their codes.

        Raises:
            BadInput: The limit is not 1 to 200, or no page gave this cursor.
        """
        check_limit(limit)
        place = tuple_(table.c.created_at, table.c.id)
        query = (
            select(table, redemptions.c.user, redemptions.c.at)
            .join_from(table, redemptions, isouter=True)
            .order_by(table.c.created_at.desc(), table.c.id.desc())
            .limit(limit + 1)
        )
        if cursor is not None:
            found = _CURSOR.fullmatch(cursor)
            if not found:
                raise BadInput(
                    "This cursor is not one of this list. Begin again without a cursor."
                )
            query = query.where(place < (int(found[1]), found[2]))
        async with self._db.read() as conn:
            rows = list(await conn.execute(query))
        last = rows[limit - 1] if len(rows) > limit else None
        return VoucherPage(
            items=tuple(_voucher(row) for row in rows[:limit]),
            next=f"{last.created_at}.{last.id}" if last else None,
        )

    async def revoke(self, voucher_id: str, *, at: datetime) -> None:
        """Have a voucher worth nothing; a second call changes nothing.

        Raises:
            NotFound: There is no such voucher.
            VoucherRefused: It was redeemed; nothing was changed.
        """
        missing = NotFound("There is no such voucher. Look for its id in the list.")
        if not _ID.fullmatch(voucher_id):
            raise missing

        async def work(conn: AsyncConnection) -> None:
            query = select(table.c.id).where(table.c.id == voucher_id)
            if await conn.scalar(query.with_for_update()) is None:
                raise missing
            used = select(redemptions.c.user).where(
                redemptions.c.voucher_id == voucher_id
            )
            user = await conn.scalar(used)
            if user is not None:
                raise VoucherRefused(
                    f"{user} redeemed this voucher, so it cannot be revoked. Take the "
                    "tokens back instead."
                )
            revoked = update(table).where(
                table.c.id == voucher_id, table.c.revoked_at == NEVER
            )
            await conn.execute(revoked.values(revoked_at=micros(at)))

        await self._db.run(work)


async def _valid(conn: AsyncConnection, digest: str, at: datetime) -> Row[Any] | None:
    """Return a voucher that can be redeemed, locked; else None.

    Its digest is looked up, not its code: what the time of that tells about the digest
    of a guess tells nothing about any code.
    """
    query = select(table).where(table.c.digest == digest).with_for_update()
    row = (await conn.execute(query)).first()
    if row is None or row.revoked_at != NEVER:
        return None
    ends = (row.expires_at, row.tokens_expire_at)
    if any(end != NEVER and end <= micros(at) for end in ends):
        return None
    used = select(redemptions.c.user).where(redemptions.c.voucher_id == row.id)
    return row if await conn.scalar(used) is None else None


def _redemption(row: Row[Any], transaction_id: int, *, is_new: bool) -> Redemption:
    return Redemption(
        amount=row.amount,
        course=row.course,
        expires_at=moment(row.tokens_expire_at),
        transaction_id=transaction_id,
        is_new=is_new,
    )


def _voucher(row: Row[Any]) -> Voucher:
    return Voucher(
        id=row.id,
        amount=row.amount,
        course=row.course,
        expires_at=moment(row.expires_at),
        tokens_expire_at=moment(row.tokens_expire_at),
        note=row.note,
        actor=row.actor,
        created_at=moment(row.created_at) or EPOCH,
        revoked_at=moment(row.revoked_at),
        redeemed_by=row.user or "",
        redeemed_at=moment(row.at or NEVER),
    )
