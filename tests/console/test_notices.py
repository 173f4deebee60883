"""What users are warned of, and more time for tokens: once, in order, or refused."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from console.test_page import Browse, Browser, browse
from testbed.bare_hub import BareHub
from testbed.console import PREFIX, ConsoleProcess, Ledgers
from testbed.engine import wait_until
from torchroom.console.extending import Extending, is_extendable
from torchroom.console.refusals import NoExtension, StewardSilent
from torchroom.ledger.errors import NotEnough
from torchroom.ledger.fees import Fees
from torchroom.ledger.journal import Recorded
from torchroom.ledger.service import Ledger, open_ledger
from torchroom.steward import file as files
from torchroom.steward.model import BLIND_AFTER, Claim, Event, Look, Notice, Reason
from torchroom.steward.store import FILE, Store

__all__ = ["browse"]

TOKEN = 1_000_000
SHOWN_IN_LAB = 140  # characters of a notification
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
IN_FIVE = NOW + timedelta(minutes=5)
HALF_HOUR = timedelta(minutes=30)
NOTICE = Notice(
    lease="ls_1",
    user="ana",
    server="",
    course="",
    reason=Reason.IDLE,
    sentence="Your GPU is idle: this server stops in 5 minutes.",
    stops_at=IN_FIVE,
    extend_by=HALF_HOUR,
    extend_price=TOKEN,
    n_extensions_left=2,
    next_extension=1,
    published_at=NOW,
)


# ------------------------------------------------------------------ taking an extension


@pytest.fixture
async def ledger(ledgers: Ledgers) -> AsyncIterator[Ledger]:
    """A ledger in which ana has three tokens and a half."""
    with ledgers() as url:
        made = await asyncio.to_thread(open_ledger, url)
        await made.grants.grant("ana", 7 * TOKEN // 2, key="k", actor="ada", at=NOW)
        yield made
        assert (await made.audit(NOW)).problems == ()
        await made.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The steward's file, in which ana is warned."""
    made = Store.open(tmp_path)
    tell(made, NOTICE)
    yield made
    made.close()


@pytest.fixture
async def extending(
    ledger: Ledger, store: Store, tmp_path: Path
) -> AsyncIterator[Extending]:
    """A console's own."""
    made = Extending(ledger.fees, tmp_path)
    yield made
    await made.close()


def tell(store: Store, *notices: Notice, at: datetime = NOW) -> None:
    """Keep a look that saw everything and led to these notices."""
    store.keep(Look(at, at), notices=notices, told=[], seen=[])


async def has(ledger: Ledger) -> int:
    """What ana has."""
    return (await ledger.statements.balance("ana", NOW)).available


async def test_an_extension_is_paid_and_counts_at_once(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """Before the steward's next look the end has moved, and the next one is offered."""
    done = await extending.extend("ana", "", "ls_1", 1, at=NOW)
    assert done.is_new
    assert done.notice.stops_at == IN_FIVE + HALF_HOUR
    assert (done.notice.n_extensions_left, done.notice.next_extension) == (1, 2)
    assert "12:35 UTC" in done.notice.sentence
    assert await extending.notice("ana", "") == done.notice
    assert await has(ledger) == 5 * TOKEN // 2
    (kept,) = store.extensions()["ls_1"]
    assert (kept.k, kept.by, kept.until) == (1, HALF_HOUR, IN_FIVE + HALF_HOUR)


async def test_the_next_extension_adds_to_the_one_before(
    extending: Extending, ledger: Ledger
) -> None:
    """Until none is left, also without a look of the steward in between."""
    await extending.extend("ana", "", "ls_1", 1, at=NOW)
    done = await extending.extend("ana", "", "ls_1", 2, at=NOW)
    assert done.notice.stops_at == IN_FIVE + 2 * HALF_HOUR
    assert not is_extendable(done.notice)
    with pytest.raises(NoExtension, match="no more"):
        await extending.extend("ana", "", "ls_1", 3, at=NOW)
    assert await has(ledger) == 3 * TOKEN // 2


async def test_the_same_extension_again_is_not_paid_again(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """Two tabs, a retry, a double click: also after the steward has looked."""
    done = [await extending.extend("ana", "", "ls_1", 1, at=NOW) for _ in range(2)]
    assert [each.is_new for each in done] == [True, False]
    assert done[0].notice == done[1].notice
    seen = replace(done[0].notice, sentence="It stops at 12:35.")
    tell(store, seen)
    assert await extending.extend("ana", "", "ls_1", 1, at=NOW) == replace(
        done[1], notice=seen
    )
    assert await has(ledger) == 5 * TOKEN // 2


async def test_many_at_once_take_it_once(extending: Extending, ledger: Ledger) -> None:
    """However they race."""
    asked = (extending.extend("ana", "", "ls_1", 1, at=NOW) for _ in range(10))
    done = await asyncio.gather(*asked)
    assert sum(each.is_new for each in done) == 1
    assert await has(ledger) == 5 * TOKEN // 2


@pytest.mark.parametrize(
    ("change", "extension", "why"),
    [
        ({}, 2, "number 1, not 2"),
        ({}, 0, "number 1, not 0"),
        ({"n_extensions_left": 0}, 1, "no more"),
        ({"stops_at": None}, 1, "no more"),
        ({"stops_at": NOW}, 1, "too late"),
        ({"user": "ben"}, 1, "not about to stop"),
        ({"server": "other"}, 1, "not about to stop"),
        ({"lease": "ls_2"}, 1, "started anew"),
    ],
)
async def test_what_is_not_offered_is_refused(
    extending: Extending,
    store: Store,
    change: dict[str, Any],
    extension: int,
    why: str,
) -> None:
    """With a sentence, and nothing is taken."""
    tell(store, replace(NOTICE, **change))
    with pytest.raises(NoExtension, match=why):
        await extending.extend("ana", "", "ls_1", extension, at=NOW)
    assert await extending.fees.paid(NOW, NOW + HALF_HOUR) == []
    assert store.extensions() == {}


async def test_who_cannot_pay_is_refused(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """Nothing is taken or recorded; with tokens it works under the same number."""
    tell(store, replace(NOTICE, extend_price=4 * TOKEN))
    with pytest.raises(NotEnough):
        await extending.extend("ana", "", "ls_1", 1, at=NOW)
    assert store.extensions() == {}
    await ledger.grants.grant("ana", TOKEN, key="l", actor="ada", at=NOW)
    assert (await extending.extend("ana", "", "ls_1", 1, at=NOW)).is_new


async def test_a_free_extension_moves_no_tokens(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """A site may ask nothing for it."""
    tell(store, replace(NOTICE, extend_price=0))
    assert (await extending.extend("ana", "", "ls_1", 1, at=NOW)).is_new
    assert await has(ledger) == 7 * TOKEN // 2


async def test_killed_after_the_fee_the_retry_takes_no_second_one(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """The first try got as far as the ledger."""
    await ledger.fees.charge(
        "ana",
        "",
        TOKEN,
        key=f"extend:{store.id}:ls_1:1",
        at=NOW,
        actor="ana",
        why="Before.",
    )
    done = await extending.extend("ana", "", "ls_1", 1, at=NOW)
    assert done.is_new
    assert await has(ledger) == 5 * TOKEN // 2
    assert await extending.give_back_left_overs(NOW + timedelta(hours=1)) == 0
    assert await has(ledger) == 5 * TOKEN // 2


async def test_killed_after_the_fee_and_never_asked_again_it_comes_back(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """Some minutes later, once; other fees and what was extended stay paid."""
    await extending.extend("ana", "", "ls_1", 1, at=NOW)
    others = ("something:else:1", "extend:of another file:ls_2:1", "extend:ls_2:1")
    await ledger.grants.grant("ana", 2 * TOKEN, key="l", actor="ada", at=NOW)
    for key in (f"extend:{store.id}:ls_2:1", *others):
        await ledger.fees.charge(
            "ana", "", TOKEN, key=key, at=NOW, actor="ana", why="Before."
        )
    assert await extending.give_back_left_overs(NOW + timedelta(minutes=1)) == 0
    later = NOW + timedelta(hours=1)
    assert await extending.give_back_left_overs(later) == 1
    assert await extending.give_back_left_overs(later) == 0
    assert await has(ledger) == 3 * TOKEN // 2


async def test_a_server_that_is_being_stopped_is_not_paid_for(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """The steward decided while the fee was taken: it is given back."""
    claim = Claim("ls_1", "ana", "", Reason.IDLE, "It was idle.", NOW)
    assert store.claim(claim, 0)
    for _ in range(2):
        with pytest.raises(NoExtension, match="too late"):
            await extending.extend("ana", "", "ls_1", 1, at=NOW)
    assert await has(ledger) == 7 * TOKEN // 2
    assert store.extensions() == {}
    store.unclaim("ls_1")
    tell(store, NOTICE)
    assert (await extending.extend("ana", "", "ls_1", 1, at=NOW)).is_new
    assert await has(ledger) == 5 * TOKEN // 2


class Slow(Fees):
    """Takes so long that the steward looks meanwhile."""

    def __init__(self, fees: Fees, meanwhile: Callable[[], None]) -> None:
        super().__init__(fees._db)
        self._meanwhile = meanwhile

    async def charge(self, *given: Any, **more: Any) -> Recorded:
        self._meanwhile()
        return await super().charge(*given, **more)


async def test_a_server_that_is_not_warned_any_more_is_not_paid_for(
    ledger: Ledger, store: Store
) -> None:
    """It was stopped while the fee was taken, or computes again."""
    slow = Slow(ledger.fees, partial(tell, store))
    made = Extending(slow, store.path.parent)
    with pytest.raises(NoExtension, match=r"any more.* Nothing was taken"):
        await made.extend("ana", "", "ls_1", 1, at=NOW)
    assert await has(ledger) == 7 * TOKEN // 2
    assert store.extensions() == {}
    await made.close()


async def test_a_retry_after_the_warning_is_gone_is_told_what_was_taken(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """Also when the server was started anew; nobody else learns of it."""
    await extending.extend("ana", "", "ls_1", 1, at=NOW)
    again = replace(NOTICE, lease="ls_2")
    for at, notices in ((NOW, []), (NOW + HALF_HOUR, [again])):
        tell(store, *notices)
        done = await extending.extend("ana", "", "ls_1", 1, at=at)
        assert not done.is_new
        assert (done.notice.lease, done.notice.reason) == ("ls_1", Reason.IDLE)
        assert done.notice.stops_at == IN_FIVE + HALF_HOUR
        assert "goes on until 12:35 UTC" in done.notice.sentence
        assert not is_extendable(done.notice)
        for user, server in (("ben", ""), ("ana", "other")):
            with pytest.raises(NoExtension):
                await extending.extend(user, server, "ls_1", 1, at=at)
    assert await has(ledger) == 5 * TOKEN // 2


async def test_a_steward_that_sees_nothing_sells_nothing(
    extending: Extending, ledger: Ledger, store: Store
) -> None:
    """It stops nothing either; what was taken is told all the same."""
    store.keep_trouble(NOW + timedelta(minutes=1), "The hub is silent.")
    late = NOW + BLIND_AFTER + timedelta(seconds=1)
    with pytest.raises(StewardSilent, match="Nothing was taken") as error:
        await extending.extend("ana", "", "ls_1", 1, at=late)
    assert len(f"Not extended: {error.value}") <= SHOWN_IN_LAB
    assert (await extending.extend("ana", "", "ls_1", 1, at=NOW + BLIND_AFTER)).is_new
    assert not (await extending.extend("ana", "", "ls_1", 1, at=late)).is_new
    with pytest.raises(StewardSilent):
        await extending.extend("ana", "", "ls_1", 2, at=late)
    assert await has(ledger) == 5 * TOKEN // 2


async def test_a_steward_that_never_looked_sells_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    """A file that is just made."""
    made, store = Extending(ledger.fees, tmp_path), Store.open(tmp_path)
    store.keep(Look(NOW, None), notices=[NOTICE], told=[], seen=[])
    with pytest.raises(StewardSilent):
        await made.extend("ana", "", "ls_1", 1, at=NOW)
    assert await has(ledger) == 7 * TOKEN // 2
    store.close()
    await made.close()


@pytest.mark.parametrize("price", [0, TOKEN // 2, 2 * TOKEN, 100 * TOKEN])
async def test_a_retry_costs_what_the_first_try_cost(
    extending: Extending, ledger: Ledger, store: Store, price: int
) -> None:
    """Whatever an extension costs now."""
    hasty = Extending(ledger.fees, store.path.parent)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BUSY_WITHIN_S", 0.1)
        assert await hasty.notice("ana", "") == NOTICE
    with closing(sqlite3.connect(store.path)) as file:
        file.execute("BEGIN IMMEDIATE")
        with pytest.raises(StewardSilent):
            await hasty.extend("ana", "", "ls_1", 1, at=NOW)
    await hasty.close()
    assert await has(ledger) == 5 * TOKEN // 2
    tell(store, replace(NOTICE, extend_price=price))
    assert (await extending.extend("ana", "", "ls_1", 1, at=NOW)).is_new
    assert await has(ledger) == 5 * TOKEN // 2
    later = NOW + timedelta(hours=1)
    assert await extending.give_back_left_overs(later) == 0
    assert await has(ledger) == 5 * TOKEN // 2


async def test_a_file_that_was_deleted_gives_nothing_back(
    ledger: Ledger, tmp_path: Path
) -> None:
    """Who extended is forgotten: neither is it free now, nor was it free before."""
    for n_left in (5, 3):
        store, made = Store.open(tmp_path), Extending(ledger.fees, tmp_path)
        tell(store, NOTICE)
        assert (await made.extend("ana", "", "ls_1", 1, at=NOW)).is_new
        assert await has(ledger) == n_left * TOKEN // 2
        await made.close()
        store.close()
        store.path.unlink()
    made = Extending(ledger.fees, tmp_path)
    assert await made.give_back_left_overs(NOW + timedelta(days=1)) == 0
    assert await has(ledger) == 3 * TOKEN // 2
    await made.close()


async def test_a_file_that_cannot_be_read_is_said_and_tokens_stay(
    ledger: Ledger, tmp_path: Path
) -> None:
    """It works again when the file does; nothing but this depends on it."""
    (tmp_path / FILE).write_text("this is no database, and long enough to be seen")
    made = Extending(ledger.fees, tmp_path)
    with pytest.raises(StewardSilent):
        await made.extend("ana", "", "ls_1", 1, at=NOW)
    assert await has(ledger) == 7 * TOKEN // 2
    (tmp_path / FILE).unlink()
    assert await made.notice("ana", "") is None
    await made.close()


# --------------------------------------------------------------------------- the routes


@pytest.fixture
def told(
    console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> Iterator[Callable[..., str]]:
    """Makes a user with two tokens who is warned; returns the name."""
    store = Store.open(console.folder)

    def make(**change: Any) -> str:
        user = student()
        grant = {"microtokens": 2 * TOKEN}
        console.post(f"/users/{user}/grants", hub.token("ada"), grant)
        at = datetime.now(UTC)
        soon = {"stops_at": at + timedelta(minutes=5), "published_at": at}
        notice = replace(NOTICE, user=user, lease=f"ls_{user}", **(soon | change))
        tell(store, notice, at=at)
        return user

    yield make
    store.close()


def extend(
    console: ConsoleProcess,
    token: str | None,
    extension: Any,
    lease: Any,
    server: str = "-",
) -> requests.Response:
    """Ask for an extension."""
    path = f"/me/servers/{server}/extension"
    body = {"lease": lease, "extension": extension}
    return console.ask("POST", path, token, json=body)


def test_a_servers_own_token_sees_and_extends(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """What JupyterLab shows, and its button."""
    user = told()
    token = hub.server_token(user)
    notice = console.get("/me/servers/-/notice", token)
    assert notice["sentence"] == NOTICE.sentence
    assert 270 < notice["seconds_left"] <= 300
    assert (notice["microtokens"], notice["extend_by_s"]) == (TOKEN, 1800)
    assert (notice["n_extensions_left"], notice["next_extension"]) == (2, 1)

    lease = notice["lease"]
    first = extend(console, token, 1, lease)
    again = extend(console, token, 1, lease)
    assert (first.status_code, again.status_code) == (201, 200), first.text
    assert 2070 < first.json()["seconds_left"] <= 2100
    assert first.json()["next_extension"] == 2
    assert console.get("/me", token)["available"] == TOKEN
    (entry, *_) = console.get("/me/history", hub.token(user))["items"]
    assert (entry["code"], entry["microtokens"]) == ("fee", -TOKEN)
    assert entry["note"] == "30 minutes more for your server."

    assert extend(console, token, 2, lease).status_code == 201
    last = extend(console, token, 3, lease)
    assert (last.status_code, last.json()["code"]) == (409, "no_extension")


def test_a_server_without_a_warning_has_no_notice(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """204, and 409 for who wants to extend it; other users' warnings are theirs."""
    told()
    for token in (hub.server_token("bob"), hub.token("ada")):
        answer = console.ask("GET", "/me/servers/-/notice", token)
        assert (answer.status_code, answer.content) == (204, b"")
        assert extend(console, token, 1, "ls_1").status_code == 409


def test_a_named_server_is_asked_for_by_its_name(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """And the default one is another."""
    user = told(server="big one")
    token = hub.server_token(user)
    assert console.get("/me/servers/big%20one/notice", token)["server"] == "big one"
    assert console.ask("GET", "/me/servers/-/notice", token).status_code == 204
    lease = f"ls_{user}"
    assert extend(console, token, 1, lease).status_code == 409
    assert extend(console, token, 1, lease, "big%20one").status_code == 201


def test_who_has_not_enough_tokens_is_told(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """402, and nothing is taken."""
    user = told(extend_price=3 * TOKEN)
    answer = extend(console, hub.server_token(user), 1, f"ls_{user}")
    assert (answer.status_code, answer.json()["code"]) == (402, "not_enough")
    assert "3 tokens" in answer.json()["message"]
    assert console.get("/me", hub.token(user))["available"] == 2 * TOKEN


def test_ten_tabs_extend_once(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """Through the whole console."""
    user = told()
    token = hub.server_token(user)
    with ThreadPoolExecutor(10) as pool:
        extends = partial(extend, console, token, 1, f"ls_{user}")
        asked = [pool.submit(extends) for _ in range(10)]
    codes = sorted(each.result().status_code for each in asked)
    assert codes == [200] * 9 + [201]
    assert console.get("/me", token)["available"] == TOKEN


def test_a_console_that_is_killed_after_the_fee_takes_no_second_one(
    own_console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """The process dies between the ledger and the steward's file; one asks again."""
    own_console.begin()
    user = student()
    grant = {"microtokens": 2 * TOKEN}
    own_console.post(f"/users/{user}/grants", hub.token("ada"), grant)
    at = datetime.now(UTC)
    store = Store.open(own_console.folder)
    tell(store, replace(NOTICE, user=user, stops_at=at + HALF_HOUR), at=at)
    token = hub.server_token(user)
    assert own_console.get("/me/servers/-/notice", token)["lease"] == "ls_1"
    ledger = own_console.url.removeprefix("sqlite:///")
    with (
        closing(sqlite3.connect(own_console.folder / FILE)) as file,
        closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as books,
        ThreadPoolExecutor(1) as pool,
    ):
        file.execute("BEGIN IMMEDIATE")  # the console waits for this file now
        asked = pool.submit(extend, own_console, token, 1, "ls_1")
        wait_until(
            lambda: books.execute("SELECT count(*) FROM fees").fetchone()[0],
            what="the fee is taken",
            within_s=20,
        )
        assert own_console.process is not None
        own_console.process.kill()
        assert isinstance(asked.exception(), requests.RequestException)
    own_console.process.wait()
    assert store.extensions() == {}
    own_console.begin()
    assert own_console.get("/me", token)["available"] == TOKEN
    assert extend(own_console, token, 1, "ls_1").status_code == 201
    assert own_console.get("/me", token)["available"] == TOKEN
    assert len(store.extensions()["ls_1"]) == 1
    store.close()


def test_nobody_extends_without_the_scope(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """Neither a token for the balance only, nor a service, nor nobody."""
    user = told()
    narrow = hub.token(user, "custom:tokens:balance!user")
    for token, status in ((narrow, 403), (hub.keys["bank"], 403), (None, 401)):
        assert console.ask("GET", "/me/servers/-/notice", token).status_code == status
        assert extend(console, token, 1, f"ls_{user}").status_code == status
    assert console.get("/me", narrow)["available"] == 2 * TOKEN


@pytest.mark.parametrize("extension", [None, "1", 1.5, True, 0, -1, 10**30, [1]])
def test_what_is_no_number_of_an_extension_is_refused(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str], extension: Any
) -> None:
    """As the schema says."""
    user = told()
    answer = extend(console, hub.server_token(user), extension, f"ls_{user}")
    assert answer.status_code == 422


@pytest.mark.parametrize("lease", [None, "", 1, "x" * 300, ["ls_1"], "\ud800"])
def test_what_is_no_lease_is_refused(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str], lease: Any
) -> None:
    """As the schema says."""
    token = hub.server_token(told())
    assert extend(console, token, 1, lease).status_code == 422


def test_another_lease_than_the_servers_is_not_paid_for(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """A tab of yesterday, and who knows somebody else's lease."""
    user = told()
    token = hub.server_token(user)
    answer = extend(console, token, 1, "ls_yesterday")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_extension")
    assert console.get("/me", token)["available"] == 2 * TOKEN
    assert extend(console, token, 1, f"ls_{user}").status_code == 201
    other = told()
    assert extend(console, hub.server_token(other), 1, f"ls_{user}").status_code == 409


def test_a_file_that_cannot_be_used_is_one_sentence_everywhere(
    own_console: ConsoleProcess, hub: BareHub, student: Callable[..., str]
) -> None:
    """On every route that needs it; the rest goes on."""
    (own_console.folder / FILE).write_text("this is no database, and long enough")
    own_console.begin()
    token, admin = hub.server_token(student()), hub.token("ada")
    for answer in (
        own_console.ask("GET", "/me/servers/-/notice", token),
        extend(own_console, token, 1, "ls_1"),
        own_console.ask("GET", "/steward/events", admin),
        own_console.ask("GET", "/steward/verdicts", admin),
    ):
        told = (answer.status_code, answer.json()["code"])
        assert told == (503, "steward_unavailable")
        assert answer.json()["message"].endswith(".")
    assert own_console.get("/me", token)["available"] == 0


def test_admins_see_what_the_steward_did_and_thinks(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str]
) -> None:
    """Page by page; nobody else does."""
    user = told()
    store = Store.open(console.folder)
    for number in range(3):
        event = Event(NOW, "warned", f"ls_{number}", user, "", "idle", "It is idle.")
        event = replace(event, evidence={"use": "idle"})
        look = Look(NOW, NOW)
        store.keep(look, notices=[], told=[], seen=[], noted=[(event, [])])
    store.close()
    first = console.get("/steward/events", hub.token("ada"), limit=2)
    assert [each["lease"] for each in first["items"]] == ["ls_2", "ls_1"]
    assert first["items"][0]["evidence"] == {"use": "idle"}
    rest = console.get("/steward/events", hub.token("ada"), before=first["next"])
    assert [each["lease"] for each in rest["items"]] == ["ls_0"]
    assert rest["next"] is None
    told_now = console.get("/steward/verdicts", hub.token("ada"))
    assert set(told_now) == {"look", "items"}
    for path in ("/steward/events", "/steward/verdicts"):
        for token in (hub.token(user), hub.server_token(user)):
            assert console.ask("GET", path, token).status_code == 403


# ----------------------------------------------------------------------------- the page


def press(browser: Browser, page: requests.Response, **more: str) -> requests.Response:
    """Send the form of the page's warning; return the page that comes then."""
    form = re.search(r'(?s)action="[^"]*extend">(.*?)</form>', page.text)
    assert form, page.text
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form[1]))
    answer = browser.http.post(
        f"{browser.pages}{PREFIX}extend",
        data=fields | more,
        allow_redirects=False,
        timeout=60,
    )
    to = answer.headers.get("Location")
    return browser.go(to) if to else answer


def test_the_page_warns_and_extends(
    console: ConsoleProcess, hub: BareHub, told: Callable[..., str], browse: Browse
) -> None:
    """The form is the page's own: another is refused, a second click is harmless."""
    user = told()
    browser = browse(user)
    page = browser.go()
    assert "Your GPU is idle" in page.text
    assert re.search(r"\(\d\d:\d\d UTC\)", page.text)
    assert "(1 token)" in page.text
    assert press(browser, page, form_key="wrong").status_code == 403
    assert console.get("/me", hub.token(user))["available"] == 2 * TOKEN
    for _ in range(2):
        after = press(browser, page)
        assert "You took more time" in after.text
    assert console.get("/me", hub.token(user))["available"] == TOKEN
    assert "Fee" in after.text
    odd = press(browser, page, extension="x" * 5000)
    assert "The next extension is number 2" in odd.text
    old = press(browser, page, lease="ls_yesterday", extension="2")
    assert "started anew" in old.text
    assert console.get("/me", hub.token(user))["available"] == TOKEN


def test_the_page_says_what_an_extension_lacks(
    console: ConsoleProcess, told: Callable[..., str], browse: Browse
) -> None:
    """In its own words, not on another page."""
    browser = browse(told(extend_price=3 * TOKEN))
    after = press(browser, browser.go())
    assert "This costs 3 tokens, but only 2 tokens can be used" in after.text
