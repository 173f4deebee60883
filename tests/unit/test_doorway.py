"""The doorway: who boots, who waits, and what becomes of those who fail."""

import asyncio
from contextlib import suppress

import pytest
from gpuspawner.admission import MAX_PER_CPU, START_PER_CPU, Turn
from gpuspawner.doorway import BootTimedOut, Doorway

AT_ONCE = START_PER_CPU  # on one core


class Boots:
    """Servers that boot until the test lets them go."""

    def __init__(self) -> None:
        self.doorway = Doorway()
        self.inside: list[str] = []
        self.most = 0
        self.told: dict[str, list[Turn]] = {}
        self.go: dict[str, asyncio.Future[None]] = {}

    def start(self, name: str) -> asyncio.Task[None]:
        self.go[name] = asyncio.get_running_loop().create_future()
        self.told[name] = []
        return asyncio.create_task(self._boot(name))

    async def _boot(self, name: str) -> None:
        async with self.doorway.boot(name, 1, self.told[name].append):
            self.inside.append(name)
            self.most = max(self.most, len(self.inside))
            try:
                await self.go[name]
            finally:
                self.inside.remove(name)


async def settle() -> None:
    """Let every task go as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def test_only_so_many_boot_at_once_and_all_do_in_order() -> None:
    """A class of twelve on one core: the first come boot first, nobody is lost."""

    async def go() -> None:
        boots = Boots()
        names = [f"s{i:02d}" for i in range(12)]
        tasks = [boots.start(name) for name in names]
        order: list[str] = []
        await settle()
        assert len(boots.inside) == AT_ONCE
        while boots.inside:
            assert len(boots.inside) <= MAX_PER_CPU  # the limit follows the clock
            name = boots.inside[0]
            order.append(name)
            boots.go[name].set_result(None)
            await settle()
        await asyncio.gather(*tasks)
        assert order == names

    asyncio.run(go())


def test_who_waits_is_told_how_many_are_ahead() -> None:
    """The first waiting server is told a place; those that boot at once are not."""

    async def go() -> None:
        boots = Boots()
        tasks = [boots.start(f"s{i}") for i in range(AT_ONCE + 2)]
        await settle()
        assert len(boots.inside) == AT_ONCE
        assert not boots.told["s0"]
        ahead = [boots.told[f"s{AT_ONCE + i}"][-1].n_ahead for i in range(2)]
        assert ahead[0] < ahead[1]
        for future in boots.go.values():
            future.set_result(None)
        await asyncio.gather(*tasks)

    asyncio.run(go())


@pytest.mark.parametrize("is_inside", [True, False])
def test_who_gives_up_makes_room(is_inside: bool) -> None:
    """A cancelled server neither blocks the doorway nor keeps its turn."""

    async def go() -> None:
        boots = Boots()
        tasks = {name: boots.start(name) for name in ("a", "b", "c", "d")}
        await settle()
        assert boots.inside == ["a", "b"]
        gone = "a" if is_inside else "c"
        tasks[gone].cancel()
        await settle()
        for name in ("a", "b", "c", "d"):
            if name != gone:
                boots.go[name].set_result(None)
                await settle()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*(tasks[name] for name in tasks if name != gone))
        assert tasks[gone].cancelled()
        admission = boots.doorway.admission
        assert admission is not None
        assert not admission.booting
        assert not admission.waiting

    asyncio.run(go())


def test_a_cancellation_is_not_lost_when_a_turn_comes_at_the_same_moment() -> None:
    """Whatever the event loop does first: who was cancelled does not boot."""

    async def go(n_steps: int) -> None:
        boots = Boots()
        tasks = {name: boots.start(name) for name in ("a", "b", "c")}
        await settle()
        boots.go["a"].set_result(None)
        for _ in range(n_steps):
            await asyncio.sleep(0)
        tasks["c"].cancel()
        await settle()
        assert tasks["c"].cancelled()
        assert boots.inside == ["b"]
        boots.go["b"].set_result(None)
        await tasks["b"]

    for n_steps in range(8):
        asyncio.run(go(n_steps))


@pytest.mark.parametrize(
    ("error", "is_halved"), [(BootTimedOut("slow"), True), (ValueError("bad"), False)]
)
def test_only_a_boot_that_was_too_slow_lets_fewer_in(
    error: Exception, is_halved: bool
) -> None:
    """A time-out says that the machine is too full, an error says nothing about it."""

    async def go() -> None:
        boots = Boots()
        tasks = [boots.start("a"), boots.start("b")]
        await settle()
        admission = boots.doorway.admission
        assert admission is not None
        before = admission.limit
        boots.go["a"].set_exception(error)
        boots.go["b"].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[0].exception() is error
        assert (admission.limit < before) is is_halved

    asyncio.run(go())
