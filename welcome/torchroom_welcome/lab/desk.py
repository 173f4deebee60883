"""What this server knows of the hub's warnings: asked seldom, for however many tabs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from torchroom_welcome import facts, wallet, warning
from torchroom_welcome.asking import NoAnswer
from torchroom_welcome.warning import NotExtended, Notice

KEPT_S = 5.0
LEASE_MAX = 255
EVERY_S = 30
HIDDEN_EVERY_S = 60


@dataclass(frozen=True)
class Answer:
    """What a page is told.

    Attributes:
        status: HTTP's.
        body: JSON.
    """

    status: int
    body: dict[str, object]


class Desk:
    """Asks the hub, in threads; never raises.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._facts: facts.Facts | None = None
        self._kept: tuple[float, Notice | NoAnswer | None] | None = None

    async def notice(self) -> Answer:
        """What is to happen to this server, and when to ask again.

        ``every_s`` is None if there is nothing to ask here, and ``hidden_every_s`` if
        not from a tab that nobody sees: asking passes the hub's proxy, which takes it
        for activity, and a server without a GPU is stopped for the lack of that.
        """
        async with self._lock:
            here = await self._here()
            if not warning.has_source(here):
                return Answer(200, _told(None, here))
            if self._kept is None or self._clock() - self._kept[0] >= KEPT_S:
                found = await asyncio.to_thread(_look, here)
                self._kept = (self._clock(), found)
            at, known = self._kept
            if isinstance(known, NoAnswer):
                return Answer(503, {"message": _sentence(known)})
            return Answer(200, _told(_aged(known, int(self._clock() - at)), here))

    async def extend(self, lease: object, number: object) -> Answer:
        """Take an extension; the same lease and number again take nothing more."""
        if not isinstance(lease, str) or not 1 <= len(lease) <= LEASE_MAX:
            return Answer(400, {"message": "An extension is one of a lease."})
        if isinstance(number, bool) or not isinstance(number, int):
            return Answer(400, {"message": "An extension has a number."})
        async with self._lock:
            here = await self._here()
            if not warning.has_source(here):
                return Answer(404, {"message": "This server's hub extends nothing."})
            self._kept = None
            try:
                found = await asyncio.to_thread(warning.extend, here, lease, number)
            except NotExtended as why:
                return Answer(409, {"message": str(why)})
            except NoAnswer as why:
                return Answer(503, {"message": _sentence(why)})
            self._kept = (self._clock(), found)
            left = await asyncio.to_thread(_tokens_left, here)
            return Answer(200, _told(found, here) | {"microtokens_left": left})

    async def _here(self) -> facts.Facts:
        if self._facts is None:
            self._facts = await asyncio.to_thread(facts.load)
        return self._facts


def _look(here: facts.Facts) -> Notice | NoAnswer | None:
    """What the hub says, or why it says nothing: that is kept, too."""
    try:
        return warning.look(here)
    except NoAnswer as why:
        return why


def _told(notice: Notice | None, here: facts.Facts) -> dict[str, object]:
    is_asked = warning.has_source(here)
    return {
        "notice": asdict(notice) if notice else None,
        "every_s": EVERY_S if is_asked else None,
        "hidden_every_s": HIDDEN_EVERY_S if is_asked and here.lease else None,
    }


def _aged(notice: Notice | None, age_s: int) -> Notice | None:
    """The same notice so many seconds later."""
    if notice is None or notice.seconds_left is None:
        return notice
    fields = asdict(notice) | {"seconds_left": max(0, notice.seconds_left - age_s)}
    return Notice(**fields)


def _tokens_left(here: facts.Facts) -> int | None:
    try:
        return wallet.ask(here.tokens.url).spendable
    except NoAnswer:
        return None


def _sentence(why: NoAnswer) -> str:
    said = str(why)
    return f"{said[:1].upper()}{said[1:]}."
