"""What the owner of a server is told of its end, and more time for it.

The steward decides what is told and keeps to extensions; here the fee is taken, and
then the extension is recorded in the steward's file. Whatever breaks in between: an
extension costs its price once, and a fee without an extension is given back.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from torchroom.console.refusals import NoExtension, StewardSilent
from torchroom.ledger.amounts import text_of
from torchroom.ledger.fees import Fees
from torchroom.ledger.forecast import duration_text
from torchroom.steward.file import StoreError
from torchroom.steward.model import Event, Look, Notice, Seen
from torchroom.steward.rows import extended_until
from torchroom.steward.store import Store, TooLate

log = logging.getLogger("torchroom.console")

T = TypeVar("T")

FEE = "extend"
NOT_EXTENDED = "The server was not extended."
LEFT_OVER_AFTER = timedelta(minutes=10)
LEFT_OVER_WITHIN = timedelta(days=30)
"""Fees between these ages are compared with the extensions that were recorded."""


@dataclass(frozen=True, slots=True)
class Extended:
    """What a request for more time came to.

    Attributes:
        notice: What holds now.
        is_new: False: this extension was taken before, and nothing was paid now.
    """

    notice: Notice
    is_new: bool


class Extending:
    """Notices and extensions of everybody's servers; one per console.

    Args:
        fees: The ledger's.
        data_dir: Where the steward's file is. It is opened when it is first needed, so
            that tokens do not depend on it.
    """

    def __init__(self, fees: Fees, data_dir: Path) -> None:
        self.fees = fees
        self._data_dir = data_dir
        self._store: Store | None = None
        self._opening = threading.Lock()
        # Held from the fee to the extension: what is paid and not recorded while it is
        # free was left over by a console that was killed.
        self._lock = asyncio.Lock()

    async def notice(self, user: str, server: str) -> Notice | None:
        """Return what a server's owner is told now, None if nothing.

        What was extended counts at once, not only from the steward's next look on.

        Args:
            user: The owner.
            server: "" for the default server.

        Raises:
            StewardSilent: The steward's file cannot be used.
        """
        return await self._ask(lambda store: _now(store, user, server))

    async def notices(self, user: str) -> list[Notice]:
        """Return what a user is told now of all their servers, by name.

        Raises:
            StewardSilent: The steward's file cannot be used.
        """

        def look(store: Store) -> list[Notice]:
            servers = [each.server for each in store.notices() if each.user == user]
            found = [_now(store, user, server) for server in sorted(servers)]
            return [notice for notice in found if notice]

        return await self._ask(look)

    async def extend(
        self, user: str, server: str, lease: str, extension: int, *, at: datetime
    ) -> Extended:
        """Take an extension and its price; the same one again takes nothing more.

        Args:
            user: The owner.
            server: "" for the default server.
            lease: The notice's: of a server that was started anew it is another.
            extension: Which: the notice's `next_extension`.
            at: Now.

        Raises:
            NoExtension: There is no such extension, or the server is being stopped.
            NotEnough: Its price cannot be paid.
            StewardSilent: The steward's file cannot be used, or the steward sees
                nothing.
        """
        async with self._lock:
            before = await self._taken(user, server, lease, extension)
            if before:
                return Extended(before, is_new=False)
            notice = await self.notice(user, server)
            if notice is None:
                raise NoExtension(
                    "Nothing is to be extended: this server is not about to stop."
                )
            _check(notice, lease, extension, at)
            await self._check_sight(at)
            key = await self._key(lease, extension)
            is_paid = await self._pay(notice, key, at)
            try:
                is_new = await self._ask(lambda store: store.extend(notice, at))
            except TooLate as error:
                await self.fees.give_back(key, at=at, why=NOT_EXTENDED)
                raise NoExtension(f"{error} Nothing was taken.") from error
            log.info(
                "extended lease_id=%s extension=%d user=%r paid=%s is_new=%s",
                notice.lease, extension, user, is_paid, is_new,
            )  # fmt: skip
            after = await self._taken(user, server, lease, extension)
        return Extended(after or notice, is_new=is_new)

    async def _taken(
        self, user: str, server: str, lease: str, extension: int
    ) -> Notice | None:
        """Return what holds for a lease now; None: the extension was not taken."""

        def look(store: Store) -> Notice | None:
            taken = store.taken(user, server, lease, extension)
            now = _now(store, user, server)
            return now if taken and now and now.lease == lease else taken

        return await self._ask(look)

    async def _key(self, lease: str, extension: int) -> str:
        """Return what the fee of an extension is for.

        The file's id is in it: what a file that was deleted knew of fees is not known
        any more, so they stay paid, and the same extension is another one.
        """
        return f"{await self._prefix()}{lease}:{extension}"

    async def _prefix(self) -> str:
        """Return how the keys of all fees of the present file begin."""
        return f"{FEE}:{await self._ask(lambda store: store.id)}:"

    async def _check_sight(self, at: datetime) -> None:
        """Return only if the steward sees the servers.

        Otherwise it stops none, and whether one is still there is not known.

        Raises:
            StewardSilent: It does not.
        """
        look = await self._ask(lambda store: store.look())
        if look is None or not look.is_fresh(at):
            raise StewardSilent(
                "The hub does not know now which servers run, so it stops none and "
                "sells no time. Nothing was taken. Try again in a minute."
            )

    async def _pay(self, notice: Notice, key: str, at: datetime) -> bool:
        """Take the price of a notice's extension; return whether it was taken now.

        What an earlier try took is the price, whatever it would be now.

        Raises:
            NotEnough: It cannot be paid.
        """
        before = await self.fees.paid_for(key)
        if not notice.extend_price or (before and before.user == notice.user):
            return False
        done = await self.fees.charge(
            notice.user,
            notice.course,
            notice.extend_price,
            key=key,
            at=at,
            actor=notice.user,
            why=f"{_minutes(notice.extend_by)} more for {_which(notice.server)}.",
        )
        return done.is_new

    async def give_back_left_overs(self, now: datetime) -> int:
        """Give back fees whose extensions were never recorded; return how many.

        A console that is killed between the two leaves one, if nobody asks again. Only
        fees of the present file are looked at.

        Raises:
            StewardSilent: The steward's file cannot be used.
        """
        async with self._lock:
            paid = await self.fees.paid(now - LEFT_OVER_WITHIN, now - LEFT_OVER_AFTER)
            if not paid:
                return 0
            prefix = await self._prefix()
            found = {fee.key: _extension_of(fee.key, prefix) for fee in paid}
            wanted = {key: each for key, each in found.items() if each is not None}
            if not wanted:
                return 0
            leases = {lease for lease, _ in wanted.values()}
            recorded = await self._ask(lambda store: store.extensions(leases))
            taken = {(lease, e.k) for lease, each in recorded.items() for e in each}
            n_given = 0
            for key, extension in wanted.items():
                if extension not in taken:
                    n_given += await self.fees.give_back(key, at=now, why=NOT_EXTENDED)
            return n_given

    # -- for admins ------------------------------------------------------------------

    async def events(self, limit: int, before: int | None) -> list[Event]:
        """Return what the steward did, the newest first.

        Raises:
            StewardSilent: The steward's file cannot be used.
        """
        return await self._ask(lambda store: store.events(limit, before))

    async def verdicts(self) -> tuple[Look | None, list[Seen]]:
        """Return how the steward's last look went, and what it thought.

        Raises:
            StewardSilent: The steward's file cannot be used.
        """
        return await self._ask(lambda store: (store.look(), store.seen()))

    async def close(self) -> None:
        """Close the file."""
        if self._store is not None:
            await asyncio.to_thread(self._store.close)

    async def _ask(self, what: Callable[[Store], T]) -> T:
        """Ask the steward's file in a thread.

        Raises:
            StewardSilent: It cannot be used; an admin finds more in the log.
        """

        def work() -> T:
            with self._opening:
                if self._store is None:
                    self._store = Store.open(self._data_dir)
            return what(self._store)

        try:
            return await asyncio.to_thread(work)
        except StoreError as error:
            log.error("%s", error)
            raise StewardSilent(
                "What your servers are warned of cannot be read now. Try again."
            ) from error


def is_extendable(notice: Notice) -> bool:
    """Return whether a notice offers an extension."""
    return notice.n_extensions_left > 0 and notice.stops_at is not None


def price_text(notice: Notice) -> str:
    """Return what an extension costs, for people."""
    return text_of(notice.extend_price) if notice.extend_price else "free"


def _now(store: Store, user: str, server: str) -> Notice | None:
    """Return a notice with the extensions that its steward has not seen yet."""
    notice = store.notice_of(user, server)
    if notice is None:
        return None
    taken = store.extensions([notice.lease]).get(notice.lease, [])
    unseen = [each for each in taken if each.k >= notice.next_extension]
    if not unseen:
        return notice
    until = unseen[-1].until
    return replace(
        notice,
        sentence=extended_until(until),
        stops_at=until,
        n_extensions_left=max(0, notice.n_extensions_left - len(unseen)),
        next_extension=unseen[-1].k + 1,
    )


def _check(notice: Notice, lease: str, extension: int, at: datetime) -> None:
    """Return only if this extension can be taken.

    Raises:
        NoExtension: It cannot; the sentence says why.
    """
    if notice.lease != lease:
        raise NoExtension(
            "This server was started anew since you were warned. Nothing was taken."
        )
    if not is_extendable(notice):
        raise NoExtension("There are no more extensions for this server.")
    if notice.stops_at is not None and notice.stops_at <= at:
        raise NoExtension("It is too late: the server is being stopped.")
    if extension != notice.next_extension:
        raise NoExtension(
            f"The next extension is number {notice.next_extension}, not {extension}."
        )


def _extension_of(key: str, prefix: str) -> tuple[str, int] | None:
    """Return which lease and which extension a fee's key is for, None if for none."""
    lease, _, number = key.removeprefix(prefix).rpartition(":")
    is_one = key.startswith(prefix) and number.isdecimal()
    return (lease, int(number)) if is_one else None


def _minutes(span: timedelta) -> str:
    return duration_text(int(span.total_seconds()))


def _which(server: str) -> str:
    return f"your server {server}" if server else "your server"
