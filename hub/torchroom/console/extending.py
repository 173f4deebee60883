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
from torchroom.steward.model import Event, Look, Notice, Seen
from torchroom.steward.store import Store, StoreError, TooLate

log = logging.getLogger("torchroom.console")

T = TypeVar("T")

FEE = "extend"
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
        self, user: str, server: str, extension: int, at: datetime
    ) -> Extended:
        """Take an extension and its price; the same one again takes nothing more.

        Args:
            user: The owner.
            server: "" for the default server.
            extension: Which: the notice's `next_extension`.
            at: Now.

        Raises:
            NoExtension: There is no such extension, or the server is being stopped.
            NotEnough: Its price cannot be paid.
            StewardSilent: The steward's file cannot be used.
        """
        async with self._lock:
            notice = await self.notice(user, server)
            if notice is None:
                raise NoExtension(
                    "Nothing is to be extended: this server is not about to stop."
                )
            if 1 <= extension < notice.next_extension:
                return Extended(notice, is_new=False)
            _check(notice, extension, at)
            is_paid = False
            key = f"{FEE}:{notice.lease}:{extension}"
            if notice.extend_price:
                is_paid = (
                    await self.fees.charge(
                        user,
                        notice.course,
                        notice.extend_price,
                        key=key,
                        at=at,
                        actor=user,
                        why=f"{_minutes(notice.extend_by)} more for {_which(server)}.",
                    )
                ).is_new
            try:
                is_new = await self._ask(lambda store: store.extend(notice, at))
            except TooLate as error:
                await self.fees.give_back(
                    key, at=at, why="The server was being stopped already."
                )
                raise NoExtension(
                    "It is too late: the server is being stopped. Nothing was taken."
                ) from error
            log.info(
                "extended lease_id=%s extension=%d user=%r paid=%s is_new=%s",
                notice.lease, extension, user, is_paid, is_new,
            )  # fmt: skip
            after = await self.notice(user, server)
        return Extended(after or notice, is_new=is_new)

    async def give_back_left_overs(self, now: datetime) -> int:
        """Give back fees whose extensions were never recorded; return how many.

        A console that is killed between the two leaves one, if nobody asks again.

        Raises:
            StewardSilent: The steward's file cannot be used.
        """
        async with self._lock:
            paid = await self.fees.paid(now - LEFT_OVER_WITHIN, now - LEFT_OVER_AFTER)
            found = {fee.key: _extension_of(fee.key) for fee in paid}
            wanted = {key: each for key, each in found.items() if each is not None}
            if not wanted:
                return 0
            leases = {lease for lease, _ in wanted.values()}
            recorded = await self._ask(lambda store: store.extensions(leases))
            taken = {(lease, e.k) for lease, each in recorded.items() for e in each}
            n_given = 0
            for key, extension in wanted.items():
                if extension not in taken:
                    n_given += await self.fees.give_back(
                        key, at=now, why="The server was not extended."
                    )
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
        sentence=f"You took more time. This server goes on until {until:%H:%M} UTC.",
        stops_at=until,
        n_extensions_left=max(0, notice.n_extensions_left - len(unseen)),
        next_extension=unseen[-1].k + 1,
    )


def _check(notice: Notice, extension: int, at: datetime) -> None:
    """Return only if this extension can be taken.

    Raises:
        NoExtension: It cannot; the sentence says why.
    """
    if not is_extendable(notice):
        raise NoExtension("There are no more extensions for this server.")
    if notice.stops_at is not None and notice.stops_at <= at:
        raise NoExtension("It is too late: the server is being stopped.")
    if extension != notice.next_extension:
        raise NoExtension(
            f"The next extension is number {notice.next_extension}, not {extension}."
        )


def _extension_of(key: str) -> tuple[str, int] | None:
    """Return which lease and which extension a fee's key is for, None if for none."""
    what, _, rest = key.partition(":")
    lease, _, number = rest.rpartition(":")
    return (lease, int(number)) if what == FEE and number.isdecimal() else None


def _minutes(span: timedelta) -> str:
    return duration_text(int(span.total_seconds()))


def _which(server: str) -> str:
    return f"your server {server}" if server else "your server"
