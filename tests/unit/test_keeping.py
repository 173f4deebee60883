"""What outlives the hub is written soon after each change, and never blocks it."""

import asyncio
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from gpuspawner.errors import StoreFailed
from gpuspawner.keeping import Keeper
from gpuspawner.store import JsonStore

LOG = logging.getLogger("test")


async def settled(keeper: Keeper) -> None:
    """Wait until nothing is being written."""
    while keeper._writing and not keeper._writing.done():
        await keeper._writing


async def test_a_change_is_there_for_the_next_hub(tmp_path: Path) -> None:
    state = {"n": 1}
    keeper = Keeper(tmp_path / "x.json", lambda: state, LOG)
    assert keeper.load() == {}
    keeper.changed()
    await settled(keeper)
    assert Keeper(tmp_path / "x.json", lambda: state, LOG).load() == {"n": 1}


async def test_a_change_while_it_is_written_is_written_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many changes at once are two writes: the one under way, and the newest."""
    state, gate, saved = {"n": 1}, threading.Event(), []
    save = JsonStore.save

    def slow(self: JsonStore, data: Mapping[str, Any]) -> None:
        gate.wait(30)
        saved.append(dict(data))
        save(self, data)

    monkeypatch.setattr(JsonStore, "save", slow)
    keeper = Keeper(tmp_path / "x.json", lambda: dict(state), LOG)
    keeper.changed()
    await asyncio.sleep(0)
    for n in range(2, 50):
        state["n"] = n
        keeper.changed()
    gate.set()
    await settled(keeper)
    assert saved == [{"n": 1}, {"n": 49}]
    assert keeper.load() == {"n": 49}


async def test_who_waits_for_the_disk_finds_it_there(tmp_path: Path) -> None:
    """Also if an older state is being written just then."""
    state = {"n": 1}
    keeper = Keeper(tmp_path / "x.json", lambda: dict(state), LOG)
    keeper.changed()
    await asyncio.sleep(0)
    state["n"] = 2
    await keeper.written()
    assert JsonStore(tmp_path / "x.json").load() == {"n": 2}


async def test_who_waits_for_a_disk_that_is_full_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await Keeper(tmp_path / "absent" / "x.json", dict, LOG).written()
    assert "not kept" in caplog.text


async def test_nothing_is_written_when_nothing_changed(tmp_path: Path) -> None:
    """Health is offered for keeping after every round."""
    path = tmp_path / "x.json"
    keeper = Keeper(path, lambda: {"n": 1}, LOG)
    keeper.changed()
    await settled(keeper)
    before = path.stat()
    keeper.changed()
    await settled(keeper)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


async def test_a_disk_that_fails_is_said_and_tried_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise StoreFailed("the disk is full.")

    keeper = Keeper(tmp_path / "x.json", lambda: {"n": 1}, LOG)
    with monkeypatch.context() as patched:
        patched.setattr(JsonStore, "save", full)
        keeper.changed()
        await settled(keeper)
    assert "the disk is full" in caplog.text
    keeper.changed()
    await settled(keeper)
    assert keeper.load() == {"n": 1}


def test_a_file_that_cannot_be_read_does_not_stop_the_hub(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x.json").mkdir()
    assert Keeper(tmp_path / "x.json", dict, LOG).load() == {}
    assert "starting without" in caplog.text
