"""A meter in memory that keeps the port's promises, and a clock that a test moves."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gpuspawner.anchor import Reading
from gpuspawner.errors import MeterFailed, NotPayable
from gpuspawner.model import (
    CPU_TYPE,
    Lease,
    LeaseEnd,
    Payer,
    Quote,
    Settlement,
    Statement,
    Verdict,
)

TOKEN = 1_000_000
HOUR_S = 3600
HOLD_S = 600
STOP_LEAD_S = 30
SECOND = timedelta(seconds=1)
START = datetime(2026, 3, 2, 8, tzinfo=UTC)
PRICES = {CPU_TYPE: 0, "A100": 36 * TOKEN}  # a token is 100 s


class Clocks:
    """The machine's clocks, which stand still unless a test moves them."""

    def __init__(self) -> None:
        self.boot_id = "first"
        self.since_boot = timedelta(hours=1)
        self.wall = START

    def read(self) -> Reading:
        return Reading(self.boot_id, self.since_boot, self.wall)

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self.since_boot += timedelta(seconds=seconds)
        self.wall += timedelta(seconds=seconds)

    def set_wall(self, by_s: float) -> None:
        """Let somebody set the wall clock."""
        self.wall += timedelta(seconds=by_s)

    def reboot(self, down_s: float) -> None:
        """Let the machine be down for so long."""
        self.boot_id += "+"
        self.since_boot = timedelta(seconds=5)
        self.wall += timedelta(seconds=down_s)


@dataclass
class Account:
    """What the meter knows of a lease."""

    payer: Payer
    per_hour: int
    ready_at: datetime | None = None
    settled_to: datetime | None = None
    end: LeaseEnd | None = None

    @property
    def seconds(self) -> int:
        """For how long it is charged."""
        end, ready_at = self.end, self.ready_at
        if ready_at is None or self.settled_to is None:
            return 0
        until = self.settled_to
        if end is not None:
            if end.is_failed_start:
                return 0
            until = max(until, end.at or until)
            if end.broke_at is not None:
                until = min(until, end.broke_at)
        return max(0, (until - ready_at) // SECOND)

    @property
    def charged(self) -> int:
        """Microtokens."""
        return self.per_hour * self.seconds // HOUR_S


class FakeMeter:
    """A ledger in memory.

    Attributes:
        wallets: User or course -> microtokens they were given.
        titles: Course -> title.
        prices: Type -> microtokens per hour; others are refused.
        accounts: Lease id -> account.
        calls: What was asked: method and lease id.
        settle_every_s: What is less than this is not charged before the end.
        before: Called with the method's name before anything is done; may raise.
        after: Likewise when all is done: the answer is lost if it raises.
    """

    def __init__(self) -> None:
        self.wallets: dict[str, int] = {}
        self.titles: dict[str, str] = {}
        self.prices = dict(PRICES)
        self.accounts: dict[str, Account] = {}
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str], None] = lambda _: None
        self.after: Callable[[str], None] = lambda _: None
        self.settle_every_s = 0.0
        self._warned: set[str] = set()

    def named(self, method: str) -> list[str]:
        """The leases for which a method was called."""
        return [lease_id for name, lease_id in self.calls if name == method]

    def fail(self, *methods: str, lose_answer: bool = False) -> None:
        """Fail these from now on; without any, none."""

        def check(method: str) -> None:
            if method in methods:
                raise MeterFailed("The ledger does not answer.")

        def never(_: str) -> None:
            return

        self.before, self.after = (never, check) if lose_answer else (check, never)

    def charged(self, user: str) -> int:
        """What a user's servers cost so far."""
        owned = [a for a in self.accounts.values() if a.payer.owner.user == user]
        return sum(account.charged for account in owned)

    def _available(self, payer: Payer) -> int:
        accounts = (payer.course, payer.owner.user)
        return sum(self.wallets.get(name, 0) for name in accounts) - self.charged(
            payer.owner.user
        )

    def _begin(self, method: str, lease_id: str = "") -> None:
        self.calls.append((method, lease_id))
        self.before(method)

    async def courses(self, groups: Sequence[str]) -> Mapping[str, str]:
        self._begin("courses")
        return {name: text for name, text in self.titles.items() if name in groups}

    async def quote(
        self,
        payer: Payer,
        choices: Sequence[Sequence[str]],
        at: datetime,  # noqa: ARG002 - the port's signature
    ) -> Sequence[Quote]:
        self._begin("quote")
        return [self._quote(payer, types) for types in choices]

    def _quote(self, payer: Payer, types: Sequence[str]) -> Quote:
        if not set(types) <= self.prices.keys():
            return Quote(None, f"{types[0]} has no price here. Ask your admin.")
        per_hour = sum(self.prices[type_] for type_ in types)
        needed = per_hour * HOLD_S // HOUR_S
        if needed > self._available(payer):
            return Quote(per_hour, "Your tokens do not suffice for this server.")
        return Quote(per_hour)

    async def hold(
        self,
        lease: Lease,
        payer: Payer,
        at: datetime,  # noqa: ARG002
    ) -> None:
        self._begin("hold", lease.id)
        types = [slot.type for slot in lease.slots] or [CPU_TYPE]
        found = self._quote(payer, types)
        if found.refusal or found.per_hour is None:
            raise NotPayable(found.refusal)
        self.accounts.setdefault(lease.id, Account(payer, found.per_hour))
        self.after("hold")

    async def ready(self, lease_id: str, at: datetime) -> None:
        self._begin("ready", lease_id)
        account = self.accounts[lease_id]
        if account.ready_at is None:
            account.ready_at = account.settled_to = at
        self.after("ready")

    async def settle(self, running: Mapping[str, datetime]) -> Settlement:
        self._begin("settle", " ".join(running))
        verdicts: list[Verdict] = []
        ends: dict[str, datetime] = {}
        next_at = None
        for lease_id, at in running.items():
            account = self.accounts[lease_id]
            if account.end or account.settled_to is None:
                continue
            if (at - account.settled_to).total_seconds() >= self.settle_every_s:
                account.settled_to = max(account.settled_to, at)
            if not account.per_hour:
                continue
            left_s = self._available(account.payer) * HOUR_S // account.per_hour
            if left_s <= STOP_LEAD_S:
                verdicts.append(Verdict(lease_id, "your tokens are used up.", True))
            elif left_s <= HOLD_S and lease_id not in self._warned:
                self._warned.add(lease_id)
                verdicts.append(Verdict(lease_id, "Your tokens run low."))
            ends[lease_id] = at + timedelta(seconds=left_s)
            due = at + timedelta(seconds=max(0, left_s - STOP_LEAD_S))
            next_at = min(next_at or due, due)
        self.after("settle")
        return Settlement(tuple(verdicts), next_at, ends)

    async def end(self, lease_id: str, end: LeaseEnd) -> None:
        self._begin("end", lease_id)
        account = self.accounts.get(lease_id)
        if account and account.end is None:
            account.end = end
        self.after("end")

    async def open_leases(self) -> Mapping[str, datetime | None]:
        self._begin("open_leases")
        return {
            lease_id: account.settled_to
            for lease_id, account in self.accounts.items()
            if account.end is None
        }

    async def statement(
        self,
        lease: Lease,
        payer: Payer,
        at: datetime,  # noqa: ARG002
    ) -> Statement:
        self._begin("statement", lease.id)
        per_hour = self.accounts[lease.id].per_hour
        return Statement("fake", False, self._available(payer), per_hour, "")
