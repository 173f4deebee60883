"""What the steward keeps: over restarts, between processes, and bounded."""

import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from steward.lab import MINUTE, NOW, keep
from torchroom.steward import file as files
from torchroom.steward import store as stores
from torchroom.steward.file import StoreError
from torchroom.steward.model import (
    Claim,
    Event,
    Extension,
    Look,
    Notice,
    Post,
    Reason,
    Seen,
    Told,
    Verdict,
)
from torchroom.steward.schema import VERSIONS
from torchroom.steward.store import FILE, Store, TooLate

NOTICE = Notice(
    "ls_1", "alice", "lab", "cs101", Reason.IDLE, "It stops.", NOW + 10 * MINUTE,
    30 * MINUTE, 10**6, 2, 1, NOW,
)  # fmt: skip
EVENT = Event(NOW, "warned", "ls_1", "alice", "lab", "idle", "It stops.",
              evidence={"use": "idle"})  # fmt: skip
CLAIM = Claim("ls_1", "alice", "lab", Reason.IDLE, "Stopped.", NOW, {"use": "idle"})
TOLD = Told("ls_1", Reason.IDLE, NOW, NOW, is_dry_run=True, is_past=True)
SEEN = Seen("ls_1", "alice", "lab", "1-gpu", "", "idle", "why", Verdict.WARN,
            Reason.IDLE, NOW, "It stops.", is_dry_run=False, at=NOW)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    return Store.open(tmp_path)


def test_all_comes_back_as_it_was(store: Store, tmp_path: Path) -> None:
    look = Look(NOW, NOW, "", 1, is_dry_run=True)
    noted = [(EVENT, [Post("id", "mail", NOW)])]
    store.keep(look, notices=[NOTICE], told=[TOLD], seen=[SEEN], noted=noted)
    assert store.claim(CLAIM, 0)
    store.close()
    again = Store.open(tmp_path)
    assert again.notice_of("alice", "lab") == NOTICE
    assert again.notice_of("alice", "") is None
    assert (again.notices(), again.told()) == ([NOTICE], {"ls_1": TOLD})
    assert (again.seen(), again.look()) == ([SEEN], look)
    assert again.claims() == {"ls_1": CLAIM}
    assert again.events() == [replace(EVENT, id=1)]
    (message,) = again.due("mail", NOW)
    assert (message.id, message.event) == ("id", replace(EVENT, id=1))
    endless = replace(NOTICE, stops_at=None)
    keep(again, [endless])
    assert again.notices() == [endless]


def test_a_look_that_saw_nothing_changes_nothing_else(store: Store) -> None:
    store.keep_trouble(NOW, "silent")
    assert store.look() == Look(NOW, None, "silent")
    store.keep(Look(NOW, NOW, "", 1), notices=[NOTICE], told=[], seen=[SEEN])
    store.keep_trouble(NOW + MINUTE, "silent")
    assert store.look() == Look(NOW + MINUTE, NOW, "silent", 1)
    assert (store.notices(), store.seen()) == ([NOTICE], [SEEN])


class TestExtensions:
    """Each is taken once, and never from a server that is being stopped."""

    @pytest.fixture(autouse=True)
    def _told(self, store: Store) -> None:
        keep(store, [NOTICE])

    def test_one_is_taken_once(self, store: Store, tmp_path: Path) -> None:
        assert store.extend(NOTICE, NOW)
        assert not Store.open(tmp_path).extend(NOTICE, NOW + MINUTE)
        ((taken,),) = store.extensions().values()
        assert (taken.k, taken.until) == (1, NOW + 40 * MINUTE)
        assert store.extensions(["ls_2"]) == {}
        assert store.extensions(["ls_1"]) == {"ls_1": [taken]}

    def test_what_was_taken_is_told_to_its_owner_only(self, store: Store) -> None:
        """Without a notice, too."""
        assert store.taken("alice", "lab", "ls_1", 1) is None
        store.extend(NOTICE, NOW)
        keep(store)
        told = store.taken("alice", "lab", "ls_1", 1)
        assert told
        assert (told.lease, told.user, told.server) == ("ls_1", "alice", "lab")
        assert (told.reason, told.stops_at) == (Reason.IDLE, NOW + 40 * MINUTE)
        assert (told.extend_by, told.extend_price) == (30 * MINUTE, 10**6)
        assert (told.n_extensions_left, told.next_extension) == (0, 2)
        assert "until 12:40 UTC" in told.sentence
        for other in (
            ("bob", "lab", "ls_1", 1),
            ("alice", "", "ls_1", 1),
            ("alice", "lab", "ls_2", 1),
            ("alice", "lab", "ls_1", 2),
        ):
            assert store.taken(*other) is None

    def test_one_that_comes_late_counts_from_then(self, store: Store) -> None:
        store.extend(NOTICE, NOW + 11 * MINUTE)
        ((taken,),) = store.extensions().values()
        assert taken.until == NOW + 41 * MINUTE

    def test_it_is_too_late_once_the_stop_is_decided(self, store: Store) -> None:
        assert store.claim(CLAIM, 0)
        with pytest.raises(TooLate):
            store.extend(NOTICE, NOW)
        store.unclaim("ls_1")
        keep(store, [NOTICE])
        assert store.extend(NOTICE, NOW)

    def test_nor_can_it_be_taken_once_nothing_is_told_any_more(
        self, store: Store
    ) -> None:
        """The server was stopped meanwhile, or goes on anyhow."""
        for ended in (True, False):
            keep(store, [NOTICE])
            if ended:
                store.claim(CLAIM, 0)
                store.unclaim("ls_1", (EVENT, []))
            else:
                keep(store, [replace(NOTICE, lease="ls_2")])
            with pytest.raises(TooLate, match="Nothing is to be extended any more"):
                store.extend(NOTICE, NOW)
        assert store.extensions() == {}

    def test_a_stop_is_not_decided_on_old_news(self, store: Store) -> None:
        store.extend(NOTICE, NOW)
        assert not store.claim(CLAIM, 0)
        assert store.claim(CLAIM, 1)

    @pytest.mark.parametrize("odd", [{"n_extensions_left": 0}, {"stops_at": None}])
    def test_what_is_not_offered_cannot_be_taken(
        self, store: Store, odd: dict[str, None]
    ) -> None:
        with pytest.raises(ValueError, match="no extension"):
            store.extend(replace(NOTICE, **odd), NOW)  # type: ignore[arg-type]

    def test_of_extension_and_stop_one_wins(self, tmp_path: Path) -> None:
        """However they meet: from two processes' connections, at the same moment."""
        first, second = Store.open(tmp_path), Store.open(tmp_path)
        with ThreadPoolExecutor(2) as pool:
            for i in range(50):
                notice = replace(NOTICE, lease=f"ls_{i}")
                keep(first, [notice])
                claim = replace(CLAIM, lease=f"ls_{i}")
                stops = pool.submit(first.claim, claim, 0)
                goes_on = pool.submit(extends, second, notice)
                assert stops.result() != goes_on.result()


def extends(store: Store, notice: Notice) -> bool:
    try:
        return store.extend(notice, NOW)
    except TooLate:
        return False


def test_only_the_last_events_are_kept(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "EVENTS_MAX", 5)
    for i in range(12):
        event = replace(EVENT, sentence=str(i))
        keep(store, noted=[(event, [Post(f"id{i}", "mail")])])
    found = [event.sentence for event in store.events()]
    assert found == ["11", "10", "9", "8", "7"]
    assert ids(store, "mail") == ["id10", "id11", "id7", "id8", "id9"]
    page = store.events(limit=2, before=store.events()[1].id)
    assert [event.sentence for event in page] == ["9", "8"]
    assert store.events(limit=-1) == []


def test_a_failure_is_noted_once(store: Store) -> None:
    store.claim(CLAIM, 0)
    for _ in range(3):
        store.mark("ls_1", failed=EVENT)
    assert len(store.events()) == 1
    store.mark("ls_2", is_sent=True, failed=EVENT)
    assert len(store.events()) == 1


def test_an_end_is_noted_once(store: Store) -> None:
    store.claim(CLAIM, 0)
    for _ in range(2):
        store.unclaim("ls_1", (EVENT, [Post("id", "mail")]))
    assert len(store.events()) == len(store.due("mail", NOW)) == 1


def ids(store: Store, hook: str) -> list[str]:
    """What of a receiver is due."""
    return [message.id for message in store.due(hook, NOW)]


def test_messages_wait_for_their_time(store: Store) -> None:
    assert store.next_post("mail") is None
    posts = [Post("a", "mail"), Post("b", "webhook"), Post("a", "mail")]
    keep(store, noted=[(EVENT, posts)])
    assert ids(store, "mail") == ["a"]
    assert ids(store, "webhook") == ["b"]
    store.try_again("a", NOW + MINUTE)
    assert ids(store, "mail") == []
    assert store.next_post("mail") == NOW + MINUTE
    assert store.next_post("webhook") == NOW
    store.posted("b")
    assert ids(store, "webhook") == []
    (message,) = store.due("mail", NOW + MINUTE)
    assert message.n_tries == 1


def test_messages_for_nobody_are_forgotten(store: Store) -> None:
    """A site that takes a receiver away, and has another one later."""
    posts = [Post("a", "mail"), Post("b", "webhook")]
    keep(store, noted=[(EVENT, posts)])
    store.keep_posts_of(["webhook", "pigeon"])
    assert (ids(store, "mail"), ids(store, "webhook")) == ([], ["b"])
    store.keep_posts_of([])
    assert ids(store, "webhook") == []


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"no database at all" * 100)
    newer = tmp_path / "newer"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    for path, says in {
        broken: "not a database",
        newer: "made by a newer Torchroom",
        tmp_path / "none" / FILE: "unable to open",
    }.items():
        with pytest.raises(StoreError, match=says):
            Store(path)
    newer.unlink()  # nothing holds it any more
    good = Store(newer)
    good.close()
    with pytest.raises(StoreError, match="closed"):
        good.notices()


def test_each_file_has_an_id_of_its_own(tmp_path: Path) -> None:
    """The same for all who have it open; another once it was deleted."""
    first, second = Store.open(tmp_path), Store.open(tmp_path)
    assert first.id == second.id
    assert re.fullmatch("[0-9a-f]{32}", first.id)
    first.close()
    second.close()
    (tmp_path / FILE).unlink()
    assert Store.open(tmp_path).id != first.id


def test_a_file_of_the_first_version_goes_on(tmp_path: Path) -> None:
    """With an id, and with what was extended."""
    with sqlite3.connect(tmp_path / FILE) as db:
        db.executescript(VERSIONS[0] + "; PRAGMA user_version = 1")
        db.execute(
            "INSERT INTO extensions VALUES ('ls_1', 1, 60.0, ?, ?)",
            [NOW.isoformat(), (NOW + MINUTE).isoformat()],
        )
    store = Store.open(tmp_path)
    assert store.id == Store.open(tmp_path).id != ""
    assert store.extensions() == {"ls_1": [Extension(1, MINUTE, NOW, NOW + MINUTE)]}
    assert store.taken("alice", "lab", "ls_1", 1) is None
    keep(store, [NOTICE])
    assert not store.extend(NOTICE, NOW)


ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from torchroom.steward.file import StoreError
from torchroom.steward.model import Event, Look
from torchroom.steward.store import Store
import datetime as d
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    store = Store.open(Path(sys.argv[1]))
    print("open", flush=True)
    at = d.datetime(2026, 6, 1, tzinfo=d.UTC)
    event = Event(at, "warned", "ls_1", "alice", "", "idle", "x" * 500)
    while True:
        store.keep(Look(at, at), notices=[], told=[], seen=[], noted=[(event, [])])
except StoreError as error:
    print(error)
"""


@pytest.mark.parametrize("size", [0, 5000, 40_000, 400_000])
def test_a_full_disk_is_a_sentence(tmp_path: Path, size: int) -> None:
    """Where it shows first, too: when the file is made. It works again with room."""
    done = subprocess.run(
        [sys.executable, "-c", ON_A_FULL_DISK, str(tmp_path), str(size)],
        check=True,
        capture_output=True,
        text=True,
    )
    said = done.stdout.splitlines()
    assert ("open" in said) == (size == 400_000)
    assert re.fullmatch(r".*sqlite cannot be used: .*(full|I/O).*\.", said[-1]), said
    keep(Store.open(tmp_path), noted=[(EVENT, [])])


def test_a_file_that_somebody_holds_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "BUSY_WITHIN_S", 0.1)
    store, other = Store.open(tmp_path), sqlite3.connect(tmp_path / FILE)
    keep(store, [NOTICE])
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        store.extend(NOTICE, NOW)
    assert store.extensions() == {}
    other.close()
    assert store.extend(NOTICE, NOW)


def test_those_who_make_the_file_at_once(tmp_path: Path) -> None:
    """The console and the steward start together."""

    def open_it(folder: Path) -> list[Event]:
        return Store.open(folder).events()

    with ThreadPoolExecutor(8) as pool:
        for i in range(20):
            folder = tmp_path / str(i)
            folder.mkdir()
            assert list(pool.map(open_it, [folder] * 8)) == [[]] * 8


WRITER = """
import sys, datetime as d
from pathlib import Path
from torchroom.steward.model import *
from torchroom.steward.store import Store
store = Store.open(Path(sys.argv[1]))
at = d.datetime(2026, 6, 1, tzinfo=d.UTC)
print("ready", flush=True)
for i in range(10**9):
    event = Event(at, "stopped", "ls_1", "alice", "", "idle", str(i))
    store.claim(Claim("ls_1", "alice", "", Reason.IDLE, "", at), 0)
    store.unclaim("ls_1", (event, [Post(f"id{i}", "mail")]))
    print(i, flush=True)
"""


def test_what_was_written_outlives_a_kill(tmp_path: Path) -> None:
    """Each event with its message, and none twice."""
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout
    said = [writer.stdout.readline() for _ in range(40)]
    writer.kill()
    writer.wait()
    store = Store.open(tmp_path)
    events = store.events(1000)
    assert len(events) >= int(said[-1])
    assert [int(e.sentence) for e in events] == list(reversed(range(len(events))))
    assert len(store.due("mail", NOW, 1000)) == len(events)
    assert sum(map(bool, store.claims())) <= 1
