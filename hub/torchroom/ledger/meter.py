"""The plugin's meter on the ledger: its port in the ledger's use-cases.

It fails closed: while the ledger cannot be reached, or its audit fails, nothing that
costs tokens is started and none are moved. What runs goes on and is charged later. A
CPU server starts all the same, without a charge: nobody is locked out of their files.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from gpuspawner import model as plugin
from gpuspawner.errors import MeterFailed, NotPayable
from sqlalchemy.exc import SQLAlchemyError

from torchroom.ledger import forecast
from torchroom.ledger.allowances import zone_of
from torchroom.ledger.amounts import text_of
from torchroom.ledger.errors import (
    BadInput,
    Corrupt,
    LedgerError,
    NotEnough,
    OverBudget,
    Unavailable,
    UnknownPrice,
)
from torchroom.ledger.metrics import Figures
from torchroom.ledger.model import Ending, Payer
from torchroom.ledger.planning import End
from torchroom.ledger.quoting import Cost
from torchroom.ledger.service import Ledger

log = logging.getLogger(__name__)

PROVIDER = "torchroom"
AUDIT_AGAIN = timedelta(minutes=1)
"""After an audit that failed: the ledger may have been repaired meanwhile."""

UNSOUND = (
    "The token ledger did not pass its audit, so nothing that costs tokens is started. "
    "Please tell your admin. A CPU server is free and can be started."
)
UNREACHABLE = (
    "The token ledger cannot be reached, so nothing that costs tokens is started. Try "
    "again in a minute, or start a CPU server, which is free."
)
NOT_COUNTED = "The token ledger cannot be reached. This server is free."


def _wall_clock() -> datetime:
    return datetime.now(UTC)


class LedgerMeter:
    """Implements `gpuspawner.ports.Meter`. One per hub; nothing is opened before use.

    Args:
        ledger: With the tables of this version.
        url: The REST API as servers reach it, "" for none.
        now: When things are recorded, as people's clocks have it.
        figures: For the metrics page, read anew at each pass; None: not wanted.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        url: str = "",
        now: Callable[[], datetime] = _wall_clock,
        figures: Figures | None = None,
    ) -> None:
        self._ledger = ledger
        self._url = url
        self._now = now
        self._figures = figures
        self._welcomed: set[str] = set()
        self._uncounted: set[str] = set()
        self._audit: asyncio.Task[None] | None = None
        self._problem = ""  # of the latest audit
        self._audit_again_at: datetime | None = None

    async def courses(self, groups: Sequence[str]) -> Mapping[str, str]:
        """Return which of these groups have tokens of their own: name -> title."""
        with _in_the_plugins_words():
            known = await self._ledger.courses.list()
        return {
            each.course.name: each.course.title
            for each in known
            if each.course.name in groups
        }

    async def quote(
        self,
        payer: plugin.Payer,
        choices: Sequence[Sequence[str]],
        at: datetime,
    ) -> Sequence[plugin.Quote]:
        """Return what servers would cost; what cannot be paid has a refusal.

        A CPU server that cannot be paid is quoted as free, which it is then.
        """
        who = _payer(payer)
        try:
            with _in_the_plugins_words():
                self._begin_audit()  # the form does not wait for it
                if self._problem:
                    raise Corrupt(UNSOUND)
                await self._give_what_is_due(who, at)
                costs = await self._ledger.leases.quote(who, choices, at)
                later = await self._later(who, at, costs)
        except MeterFailed as error:
            why = UNSOUND if isinstance(error.__cause__, Corrupt) else UNREACHABLE
            costs, later = [Cost(None, why) for _ in choices], ""
        except NotPayable as error:
            costs, later = [Cost(None, str(error)) for _ in choices], ""
        return [
            _quoted(choice, cost, later)
            for choice, cost in zip(choices, costs, strict=True)
        ]

    async def hold(
        self, lease: plugin.Lease, payer: plugin.Payer, at: datetime
    ) -> None:
        """Reserve what the first minutes of a lease cost; see the port.

        Raises:
            NotPayable: It cannot be paid for; nothing is reserved.
            MeterFailed: The ledger does not answer, or did not pass its audit.
        """
        who, types = _payer(payer), _types(lease)
        if payer.course and payer.course not in payer.groups:
            raise NotPayable(
                "You are not in the course that is to pay. Choose another."
            )
        try:
            with _in_the_plugins_words():
                await self._be_sound()
                await self._give_what_is_due(who, at)
                await self._ledger.leases.hold(lease.id, who, types, at)
        except (NotPayable, MeterFailed) as error:
            if types == (plugin.CPU_TYPE,):
                await self._hold_free(lease.id, who, at)
                return
            if isinstance(error.__cause__, NotEnough):
                later = await self._next_allowance(who, at)
                raise NotPayable(f"{error}{later}") from error
            raise

    async def ready(self, lease_id: str, at: datetime) -> None:
        """Let the meter run from this moment; a second call changes nothing."""
        if lease_id not in self._uncounted:
            with _in_the_plugins_words():
                await self._ledger.leases.ready(lease_id, at)

    async def settle(self, running: Mapping[str, datetime]) -> plugin.Settlement:
        """Charge leases for what they used."""
        with _in_the_plugins_words():
            await self._be_sound()
            found = await self._ledger.leases.settle(running)
        return plugin.Settlement(
            verdicts=tuple(
                plugin.Verdict(each.lease_id, each.text, each.must_end)
                for each in found.notices
            ),
            next_at=found.next_at,
            ends=found.ends,
        )

    async def end(self, lease_id: str, end: plugin.LeaseEnd) -> None:
        """Charge the rest, give the reserve back; a second call changes nothing."""
        if lease_id in self._uncounted:
            self._uncounted.discard(lease_id)
            return
        ending = Ending.USED if end.broke_at is None else Ending.BROKE
        if end.is_failed_start:
            ending = Ending.FAILED
        with _in_the_plugins_words():
            await self._be_sound()
            await self._ledger.leases.end(
                lease_id,
                End(ending, end.at, end.reason, end.broke_at),
                now=self._now(),
            )

    async def open_leases(self) -> Mapping[str, datetime | None]:
        """Return the leases that have not ended -> until when each is charged.

        Each pass of the plugin begins with this, so the figures are read here.
        """
        await self._refresh()
        with _in_the_plugins_words():
            return await self._ledger.leases.open()

    async def statement(
        self, lease: plugin.Lease, payer: plugin.Payer, at: datetime
    ) -> plugin.Statement:
        """Return the owner's balance and what this lease burns."""
        if lease.id in self._uncounted:
            return self._statement(None, 0, NOT_COUNTED)
        with _in_the_plugins_words():
            view = await self._ledger.statements.balance(
                payer.owner.user, at, courses=payer.groups
            )
            known = await self._ledger.leases.find(lease.id)
        rate = known.per_hour if known else 0
        return self._statement(view.spendable, rate, forecast.rate_text(rate))

    async def close(self) -> None:
        """Give up an audit that is under way; the ledger stays open."""
        if self._audit is not None:
            self._audit.cancel()
            await asyncio.wait({self._audit})

    async def _refresh(self) -> None:
        """Read the figures; without them the pass goes on."""
        if self._figures is None:
            return
        try:
            await self._figures.refresh(self._ledger.db, self._now())
        except (LedgerError, SQLAlchemyError) as error:
            log.warning("figures not read: %s", error)

    def _statement(self, balance: int | None, rate: int, note: str) -> plugin.Statement:
        return plugin.Statement(
            provider=PROVIDER,
            is_placeholder=False,
            balance_microtokens=balance,
            rate_microtokens_per_hour=rate,
            note=note,
            url=self._url,
        )

    async def _hold_free(self, lease_id: str, who: Payer, at: datetime) -> None:
        """Have a CPU server start without a charge, whatever is wrong with tokens."""
        types = (plugin.CPU_TYPE,)
        try:
            with _in_the_plugins_words():
                await self._ledger.leases.hold(lease_id, who, types, at, is_free=True)
        except (MeterFailed, NotPayable) as error:
            log.warning("CPU server not counted lease_id=%s: %s", lease_id, error)
            self._uncounted.add(lease_id)

    async def _give_what_is_due(self, who: Payer, at: datetime) -> None:
        """Give the welcome tokens, and the allowance of the course that is to pay."""
        ledger = self._ledger
        if ledger.policy.welcome and who.user not in self._welcomed:
            await ledger.grants.welcome(who.user, ledger.policy.welcome, at=at)
            self._welcomed.add(who.user)
        if not who.course:
            return
        try:
            await ledger.allowances.apply({who.course: [who.user]}, at)
        except Unavailable:
            raise
        except LedgerError as error:
            log.error("allowance not given course=%r: %s", who.course, error)

    async def _later(self, who: Payer, at: datetime, costs: Sequence[Cost]) -> str:
        """Return what to say about the next allowance, if a refusal calls for it."""
        if any(cost.refusal and cost.per_hour is not None for cost in costs):
            return await self._next_allowance(who, at)
        return ""

    async def _next_allowance(self, who: Payer, at: datetime) -> str:
        """Return when the course's members get tokens next, "" if nobody knows."""
        if not who.course:
            return ""
        with _in_the_plugins_words():
            found = await self._ledger.allowances.next_for([who.course], at)
        if found is None:
            return ""
        moment, allowance = found
        when = moment.astimezone(zone_of(allowance.time_zone))
        return (
            f" Your next allowance ({text_of(allowance.amount)}) comes on "
            f"{when:%A %d %B, %H:%M} ({allowance.time_zone})."
        )

    def _begin_audit(self) -> asyncio.Task[None]:
        """Return the audit that counts now: it is made once, and again if it failed."""
        is_stale = self._audit_again_at and self._now() >= self._audit_again_at
        if self._audit is None or (is_stale and self._audit.done()):
            self._audit_again_at = None
            self._audit = asyncio.create_task(self._make_audit(), name="ledger audit")
        return self._audit

    async def _be_sound(self) -> None:
        """Return when the ledger has passed its audit.

        Raises:
            Corrupt: It did not: no tokens are moved, so that it can be repaired.
        """
        # Shielded: a start that is given up must not end the audit for the others.
        await asyncio.shield(self._begin_audit())
        if not self._problem:
            await self._heed_others()
        if self._problem:
            raise Corrupt(UNSOUND)

    async def _heed_others(self) -> None:
        """Believe the latest audit, whoever made it: the console does every day."""
        last = await self._ledger.last_audit()
        if last and last.problems:
            self._note(last.problems[0])

    def _note(self, problem: str) -> None:
        """Move no tokens from now on, and look again later."""
        log.error("ledger audit failed, no tokens are moved: %s", problem)
        self._problem = problem
        self._audit_again_at = self._now() + AUDIT_AGAIN

    async def _make_audit(self) -> None:
        try:
            found = await self._ledger.audit(self._now())
        except (LedgerError, SQLAlchemyError) as error:
            self._note(f"it could not be made: {error}")
        except Exception as error:  # or nobody would ever look again
            log.exception("ledger audit failed")
            self._note(f"it could not be made: {error}")
        else:
            self._problem = ""
            if found.problems:
                self._note("; ".join(found.problems[:3]))


@contextlib.contextmanager
def _in_the_plugins_words() -> Iterator[None]:
    """Turn the ledger's errors into the plugin's: what a user can change, and the rest.

    The cause keeps the ledger's own error.
    """
    try:
        yield
    except (BadInput, NotEnough, OverBudget, UnknownPrice) as error:
        raise NotPayable(str(error)) from error
    except LedgerError as error:
        raise MeterFailed(str(error)) from error
    except SQLAlchemyError as error:
        log.exception("ledger failed")
        raise MeterFailed(
            "The token ledger failed. It is safe to try again."
        ) from error


def _payer(payer: plugin.Payer) -> Payer:
    return Payer(payer.owner.user, payer.owner.server, payer.course)


def _types(lease: plugin.Lease) -> tuple[str, ...]:
    return tuple(slot.type for slot in lease.slots) or (plugin.CPU_TYPE,)


def _quoted(choice: Sequence[str], cost: Cost, later: str) -> plugin.Quote:
    if not cost.refusal:
        return plugin.Quote(cost.per_hour)
    if tuple(choice) == (plugin.CPU_TYPE,):
        return plugin.Quote(0)
    wait = later if cost.per_hour is not None else ""
    return plugin.Quote(cost.per_hour, f"{cost.refusal}{wait}")
