"""Gifts, budgets, hand-outs and vouchers in any order, with crashes and repeats.

A model of a few sums says what must come out. Every step is first broken off before
one of its statements, then done, then sent once more under the same key.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ledger.books import COURSE, DAY, NOW, Books
from ledger.conftest import Ledgers
from sqlalchemy import Engine, event
from torchroom.ledger.allowances import Allowances
from torchroom.ledger.courses import Courses
from torchroom.ledger.database import Database
from torchroom.ledger.errors import LedgerError
from torchroom.ledger.grants import Grants
from torchroom.ledger.model import Course
from torchroom.ledger.periods import Every
from torchroom.ledger.portions import Mode
from torchroom.ledger.vouchers import Vouchers

USERS = ["ada", "bob"]
PORTION, WORTH = 3, 4
KINDS = [
    "grant",
    "take_back",
    "budget",
    "withdraw",
    "hand_out",
    "give_back",
    "cap",
    "allowance",
    "redeem",
    "lapse",
]


class CrashError(Exception):
    """The process ends here."""


@dataclass(frozen=True)
class Step:
    """What is done, and before which statement it is broken off the first time."""

    kind: str
    user: str
    amount: int
    crash_at: int


@dataclass
class Model:
    """What must come out: a few sums."""

    wallet: int = 0
    cap: int | None = None
    issued: int = 0
    own: Counter[str] = field(default_factory=Counter)
    expiring: Counter[str] = field(default_factory=Counter)
    earmarked: Counter[str] = field(default_factory=Counter)
    drawn: Counter[str] = field(default_factory=Counter)
    decided: set[tuple[str, str]] = field(default_factory=set)

    def room(self, user: str) -> int:
        """Return what may still be drawn by this user."""
        if self.cap is None:
            return self.wallet
        return min(self.wallet, max(0, self.cap - self.drawn[user]))

    def draw(self, user: str, amount: int) -> None:
        """Move tokens from the wallet to a user."""
        self.wallet -= amount
        self.earmarked[user] += amount
        self.drawn[user] += amount

    def allow(self, week: str, users: list[str]) -> None:
        """Give portions to whom it can; whose come first does not matter here."""
        for user in users:
            if (week, user) not in self.decided and self.room(user) >= PORTION:
                self.decided.add((week, user))
                self.draw(user, PORTION)

    def apply(self, step: Step) -> bool:  # noqa: PLR0912 - one branch for each kind
        """Do a step; tell whether it is possible."""
        user, amount = step.user, step.amount
        match step.kind:
            case "grant":
                self.issued += amount
                side = self.expiring if amount % 2 else self.own
                side[user] += amount
            case "take_back":
                if self.own[user] + self.expiring[user] < amount:
                    return False
                first = min(self.expiring[user], amount)
                self.expiring[user] -= first
                self.own[user] -= amount - first
                self.issued -= amount
            case "budget":
                self.wallet += amount
                self.issued += amount
            case "withdraw":
                if self.wallet < amount:
                    return False
                self.wallet -= amount
                self.issued -= amount
            case "hand_out":
                if self.room(user) < amount:
                    return False
                self.draw(user, amount)
            case "give_back":
                if self.earmarked[user] < amount:
                    return False
                self.draw(user, -amount)
            case "cap":
                self.cap = amount or None
            case "redeem":
                self.own[user] += WORTH
                self.issued += WORTH
            case "lapse":
                self.issued -= self.expiring.total()
                self.expiring.clear()
        return True


steps = st.builds(
    Step,
    kind=st.sampled_from(KINDS),
    user=st.sampled_from(USERS),
    amount=st.integers(1, 6),
    crash_at=st.integers(0, 12),
)
OPENING = [  # so that most of what comes is possible
    Step("budget", "", 30, 1),
    *(Step("hand_out", user, 6, 5) for user in USERS),
    *(Step("grant", user, amount, 3) for user in USERS for amount in (5, 6)),
]


@contextlib.contextmanager
def crash_before(number: int) -> Iterator[None]:
    """End the process before this statement from now on, if so many come."""
    count = 0

    def look(*_: object) -> None:
        nonlocal count
        count += 1
        if count > number:
            raise CrashError

    event.listen(Engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", look)


class Play:
    """Does steps in a ledger."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.grants, self.courses = Grants(db), Courses(db)
        self.allowances, self.vouchers = Allowances(db), Vouchers(db)

    async def prepare(self, n_codes: int) -> list[str]:
        """Set up a course with an allowance; return codes of vouchers."""
        await self.courses.put(Course(COURSE, "Title"), at=NOW)
        await self.allowances.define(
            COURSE,
            every=Every.WEEKLY,
            mode=Mode.ADD,
            amount=PORTION,
            time_zone="UTC",
            actor="admin",
            at=NOW,
        )
        new = await self.vouchers.create(n_codes, WORTH, actor="admin", at=NOW)
        return [each.code for each in new]

    def call(
        self, step: Step, number: int, at: datetime, code: str
    ) -> Callable[[], Awaitable[Any]]:
        """Return what does a step; each call is the same request."""
        user, amount = step.user, step.amount
        who: dict[str, Any] = {"key": f"{number}", "actor": "admin", "at": at}
        until = NOW + 100 * DAY if amount % 2 else None
        return {
            "grant": lambda: self.grants.grant(user, amount, expires_at=until, **who),
            "take_back": lambda: self.grants.take_back(user, amount, **who),
            "budget": lambda: self.courses.budget(COURSE, amount, **who),
            "withdraw": lambda: self.courses.withdraw(COURSE, amount, **who),
            "hand_out": lambda: self.courses.hand_out(COURSE, user, amount, **who),
            "give_back": lambda: self.courses.give_back(COURSE, user, amount, **who),
            "cap": lambda: self.courses.put(Course(COURSE, "T", amount), at=at),
            "allowance": lambda: self.allowances.apply({COURSE: [user]}, at),
            "redeem": lambda: self.vouchers.redeem(user, code, key=f"{number}", at=at),
            "lapse": lambda: self.grants.lapse(NOW + 100 * DAY),
        }[step.kind]


async def play(url: str, story: list[Step]) -> None:
    """Do all steps; compare with the model after each."""
    db = Database.open(url)
    game, books, model = Play(db), Books(db), Model()
    codes = await game.prepare(len(story))
    for number, step in enumerate(story):
        at = NOW + number * DAY
        call = game.call(step, number, at, codes[number])
        with crash_before(step.crash_at), contextlib.suppress(CrashError, LedgerError):
            await call()
        done = None
        with contextlib.suppress(LedgerError):
            done = await call()
        again = None
        with contextlib.suppress(LedgerError):
            again = await call()
        if step.kind == "allowance":
            model.allow(f"{at:%G-%V}", [step.user])
        else:
            assert model.apply(step) == (done is not None), (number, step)
        assert (done is None) == (again is None)
        assert not getattr(again, "is_new", False)
        assert await books.wallet() == model.wallet
        assert await books.issued() == model.issued
        for user in USERS:
            assert await books.of(user) == model.own[user] + model.expiring[user]
            assert await books.of(user, COURSE) == model.earmarked[user]
            assert await books.drawn(user) == model.drawn[user]
    await books.check()
    await db.close()


@settings(
    max_examples=15,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(story=st.lists(steps, min_size=8, max_size=20))
def test_whatever_is_broken_off_and_repeated_happens_once(
    ledgers: Ledgers, story: list[Step]
) -> None:
    """The sums are right after every step, and the audit finds nothing."""
    with ledgers() as url:
        asyncio.run(play(url, OPENING + story))
