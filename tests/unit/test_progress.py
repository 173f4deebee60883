"""What a start is doing, who watches it, and when everybody has left."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
from gpuspawner import progress
from gpuspawner.progress import Progress


class Clock:
    """Stands in for `time`: seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of progress.py."""
    found = Clock()
    monkeypatch.setattr(progress, "time", found)
    return found


async def first(events: AsyncGenerator[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    return [await anext(events) for _ in range(n)]


def test_every_page_sees_all_events_from_the_first() -> None:
    """A page that comes late reads what was said before, and then what is new."""

    async def go() -> None:
        told = Progress()
        told.say(5, "one")
        told.say(5, "one")
        told.say(10, "two", "<b>two</b>")
        async with aclosing(told.follow()) as events:
            assert await first(events, 2) == [
                {"progress": 5, "message": "one"},
                {"progress": 10, "message": "two", "html_message": "<b>two</b>"},
            ]
            later = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0)
            told.say(20, "three")
            assert await later == {"progress": 20, "message": "three"}

    asyncio.run(go())


def test_a_beat_carries_no_message_so_that_a_page_shows_nothing_new() -> None:
    """Between events something is sent, or a closed page would not be noticed."""

    async def go() -> None:
        told = Progress(0.01)
        told.say(5, "waiting")
        async with aclosing(told.follow()) as events:
            assert (await first(events, 2))[1] == {"progress": 5}

    asyncio.run(go())


def test_a_start_is_left_some_time_after_its_last_page_was_closed(clock: Clock) -> None:
    """Two pages: closing one changes nothing; after the second the grace runs."""

    async def go() -> None:
        told = Progress(45)
        told.say(5, "waiting")
        one, other = told.follow(), told.follow()
        await anext(one)
        await anext(other)
        await one.aclose()
        clock.now += 1000
        assert not told.is_left
        await other.aclose()
        clock.now += 45
        assert not told.is_left
        clock.now += 1
        assert told.is_left

    asyncio.run(go())


def test_a_page_that_is_loaded_again_keeps_the_start(clock: Clock) -> None:
    """The grace begins anew with every page that is closed."""

    async def go() -> None:
        told = Progress(45)
        told.say(5, "waiting")
        for _ in range(3):
            async with aclosing(told.follow()) as events:
                await anext(events)
                clock.now += 1000
                assert not told.is_left
            clock.now += 44
            assert not told.is_left
        clock.now += 2
        assert told.is_left

    asyncio.run(go())


def test_a_start_that_nobody_ever_watched_is_not_left(clock: Clock) -> None:
    """Who starts a server over REST need not keep a page open."""
    told = Progress(45)
    told.say(5, "waiting")
    clock.now += 10_000
    assert not told.is_left
