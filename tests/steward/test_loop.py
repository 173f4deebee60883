"""Looks follow each other: warned, extended, stopped, called off, killed between."""

import tomllib
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from steward.lab import HOUR, LONG_AGO, MINUTE, NOW, Lease, Room
from torchroom.steward import reading
from torchroom.steward.hub import Hub
from torchroom.steward.model import Reason, Verdict
from torchroom.steward.rules import Policy

SECOND = timedelta(seconds=1)


class Killed(BaseException):
    """Ends the steward's process at this point."""


def idle(room: Room, **more: Any) -> Lease:
    """A server whose GPU begins to be idle now."""
    lease = room.hub.add(Lease("ls_1", "alice", **more))
    lease.idle(room.clock.time)
    return lease


async def until_stop(room: Room) -> None:
    """Look at the moment of the warning, and at the one of the stop."""
    await room.look(20 * MINUTE)
    await room.look(10 * MINUTE)


async def test_an_idle_one_is_warned_and_stopped_for_a_reason(room: Room) -> None:
    idle(room)
    due = await room.look()
    assert due == NOW + 19 * MINUTE
    assert room.store.notices() == []
    due = await room.look(20 * MINUTE)
    (notice,) = room.store.notices()
    assert due == notice.stops_at == NOW + 30 * MINUTE
    assert (notice.reason, notice.n_extensions_left) == (Reason.IDLE, 2)
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "stopped"]
    assert room.hub.leases == {}
    (why,) = room.hub.reasons
    assert why["reason"] == "idle"
    assert why["idle_since"] == NOW.isoformat()
    assert why["sentence"].startswith("Your last server stopped: its GPU computed")
    assert room.store.notices() == []
    assert (room.store.told(), room.store.claims()) == ({}, {})
    (stopped, _) = room.store.events()
    assert stopped.evidence["use"] == "idle"
    assert stopped.evidence["idle_since"] == NOW.isoformat()
    await room.look(MINUTE)
    assert room.actions == ["warned", "stopped"]


async def test_each_receiver_gets_each_news_once(room: Room) -> None:
    idle(room)
    for _ in range(8):
        await room.look(5 * MINUTE)
    kinds = sorted(id_.split("-")[1] + id_.split("-")[-1] for id_ in room.posts)
    assert kinds == ["stoppedmail", "stoppedwebhook", "warnedmail", "warnedwebhook"]


async def test_one_that_computes_again_hears_no_more(room: Room) -> None:
    lease = idle(room)
    await room.look(25 * MINUTE)
    lease.busy()
    await room.look(MINUTE)
    assert room.store.notices() == []
    lease.idle(room.clock.time)
    await room.look(29 * MINUTE)
    assert room.actions == ["warned", "warned"]
    assert room.hub.stopped == []


async def test_unknown_is_not_idle(room: Room) -> None:
    lease = idle(room)
    await room.look(25 * MINUTE)
    lease.use = "unknown"
    await room.look(HOUR)
    assert room.hub.stopped == []


async def test_a_missing_reading_only_interrupts_a_countdown(room: Room) -> None:
    """If the counters show later that nothing ran in it."""
    lease = idle(room)
    await room.look(20 * MINUTE)
    told = room.store.notices()
    lease.use, lease.idle_since = "unknown", None
    await room.look(MINUTE)
    assert room.store.notices() == told
    due = await room.look(10 * MINUTE)
    assert (room.store.notices(), room.hub.stopped) == ([], [])
    assert due == room.clock.time + 5 * SECOND  # the next reading may say it
    lease.idle(NOW)
    await room.look(SECOND)
    assert room.actions == ["warned", "stopped"]


async def test_an_extension_ends_a_countdown_that_stands_still(room: Room) -> None:
    lease = idle(room)
    await room.look(20 * MINUTE)
    (notice,) = room.store.notices()
    lease.use, lease.idle_since = "unknown", None
    await room.look(MINUTE)
    assert room.store.extend(notice, room.clock.time)
    assert await room.look(SECOND) is None
    assert (room.store.notices(), room.store.told()) == ([], {})


async def test_one_that_does_not_depend_on_readings_goes_on_without_them(
    room: Room,
) -> None:
    """An age at which busy servers are stopped, too; an extension moves it."""
    room.policy = rules("[default]\nmax_age_hours = 1\nmax_age_stops_busy = true\n")
    room.begin()
    room.hub.add(Lease("ls_1", "alice", use="unknown", ready_at=NOW))
    await room.look(50 * MINUTE)
    (notice,) = room.store.notices()
    assert (notice.reason, notice.stops_at) == (Reason.MAX_AGE, NOW + HOUR)
    assert room.store.extend(notice, room.clock.time)
    await room.look(SECOND)
    assert (room.store.notices(), room.store.told()) == ([], {})
    await room.look(30 * MINUTE)
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "warned", "stopped"]


async def test_after_one_that_breaks_the_row_it_begins_anew(room: Room) -> None:
    lease = idle(room)
    await room.look(20 * MINUTE)
    lease.use, lease.idle_since = "unknown", None
    await room.look(5 * MINUTE)
    lease.idle(room.clock.time)
    await room.look(5 * MINUTE)
    assert room.store.notices() == []
    await room.look(15 * MINUTE)
    assert room.actions == ["warned", "warned"]
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "warned", "stopped"]


async def test_a_named_server_is_stopped_by_its_name(room: Room) -> None:
    idle(room, server="a b/c")
    await until_stop(room)
    assert len(room.hub.stopped) == 1
    assert room.hub.leases == {}


@pytest.mark.parametrize("name", [".", "..", "...", "a b", "ü", "a%2Fb", "a?b#c"])
async def test_no_name_becomes_another_path(room: Room, name: str) -> None:
    """Of a user or a server; ".." would be the user instead of the server."""
    lease = room.hub.add(Lease("ls_1", name, server=name))
    lease.idle(NOW)
    asked = []

    async def keeps(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode("ascii"))
        return httpx.Response(204)

    client = Hub("http://hub/hub/api", "x", transport=httpx.MockTransport(keeps))
    await client.stop(name, name)
    await client.stop(name, "")
    same = (
        quote(name, safe="").replace(".", "%2E")
        if not name.strip(".")
        else quote(name, safe="")
    )
    assert asked == [
        f"/hub/api/users/{same}/servers/{same}",
        f"/hub/api/users/{same}/server",
    ]
    assert lease.id in room.hub.leases


async def test_after_an_outage_users_are_warned_anew(room: Room) -> None:
    """The GPU computed while the steward was away, and is idle again."""
    lease = idle(room)
    await room.look(20 * MINUTE)
    lease.idle(NOW + 5 * HOUR)
    await room.look_after_an_absence(6 * HOUR)
    (notice,) = room.store.notices()
    assert notice.stops_at == room.clock.time + 10 * MINUTE
    assert room.actions == ["warned", "warned"]
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "warned", "stopped"]


async def test_another_reason_is_told_anew(room: Room) -> None:
    lease = idle(room)
    lease.tokens_end_at = NOW + 29 * MINUTE
    await room.look(20 * MINUTE)
    lease.tokens_end_at = None
    await room.look(SECOND)
    found = [(e.action, e.reason) for e in reversed(room.store.events())]
    assert found == [("warned", "tokens"), ("warned", "idle")]
    (notice,) = room.store.notices()
    assert notice.stops_at == room.clock.time + 10 * MINUTE


async def test_messages_about_one_thing_go_out_once_an_hour(room: Room) -> None:
    """Also if a GPU computes for a moment again and again."""
    lease = idle(room)
    for _ in range(4):
        lease.idle(room.clock.time)
        await room.look(20 * MINUTE)
        lease.busy()
        await room.look(SECOND)
    assert room.actions == ["warned"] * 4
    sent = [id_ for id_ in room.posts if id_.endswith("mail")]
    assert len(sent) == 2


async def test_whoever_extended_is_sent_a_message_before_that_ends(room: Room) -> None:
    """However soon after the last one: they are away, and reckon with hearing of it."""
    idle(room)
    await room.look(20 * MINUTE)
    (notice,) = room.store.notices()
    assert room.store.extend(notice, room.clock.time)
    await room.look(30 * MINUTE)
    await room.look(SECOND)
    assert room.actions == ["warned", "warned"]
    sent = [id_ for id_ in room.posts if id_.endswith("mail")]
    assert len(sent) == 2


async def test_a_server_whose_size_is_not_told_is_left_alone(room: Room) -> None:
    """It runs since an older hub; its size may be allowed more than the default."""
    lease = idle(room)
    lease.offer = ""
    await until_stop(room)
    assert (room.actions, room.hub.stopped) == ([], [])


async def test_one_that_ends_before_it_is_stopped_was_not_stopped(room: Room) -> None:
    lease = idle(room)
    await room.look(20 * MINUTE)

    def ends(line: str) -> None:
        if line.startswith("POST"):
            room.hub.leases.pop(lease.id, None)

    room.hub.on = ends
    await room.look(10 * MINUTE)
    await room.look(SECOND)
    assert room.actions == ["warned"]
    assert room.store.claims() == {}


async def test_a_stop_that_is_called_off_for_a_later_one_stays_announced(
    room: Room,
) -> None:
    """The server computed again, and is idle again, after a kill in between."""
    lease = idle(room)
    await room.look(20 * MINUTE)
    kill_at(room, "POST")
    await room.look(10 * MINUTE)
    assert room.store.claims()
    room.hub.on = lambda _: None
    lease.idle(NOW + 5 * MINUTE)
    room.begin()
    await room.look(SECOND)
    (notice,) = room.store.notices()
    await room.look(SECOND)
    assert room.store.notices()[0].stops_at == notice.stops_at
    assert room.actions == ["warned", "kept", "warned"]


async def test_a_server_that_is_not_ready_for_a_moment_stays_warned(
    room: Room,
) -> None:
    """A page of the hub's list that misses a user is such a moment, too."""
    lease = idle(room)
    await room.look(20 * MINUTE)
    told = room.store.notices()
    lease.pending = "check"
    await room.look(SECOND)
    assert room.store.notices() == told
    lease.pending = None
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "stopped"]


async def test_who_could_not_extend_is_warned_anew(room: Room) -> None:
    """Nobody sells an extension while the steward does not see the servers."""
    idle(room)
    await room.look(20 * MINUTE)
    room.hub.on = lambda line: httpx.Response(503) if "GET" in line else None
    await room.look(9 * MINUTE)
    room.hub.on = lambda _: None
    await room.look(MINUTE)
    (notice,) = room.store.notices()
    assert notice.stops_at == room.clock.time + 10 * MINUTE
    assert notice.n_extensions_left == 2
    assert room.hub.stopped == []
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "warned", "stopped"]


async def test_nor_does_a_warning_count_of_one_that_is_not_ready_just_then(
    room: Room,
) -> None:
    lease = idle(room)
    await room.look(20 * MINUTE)
    lease.pending = "check"
    await room.look_after_an_absence(15 * MINUTE)
    lease.pending = None
    await room.look(SECOND)
    assert room.actions == ["warned", "warned"]
    assert room.hub.stopped == []


async def test_a_clock_that_is_set_forward_ends_no_countdown(room: Room) -> None:
    idle(room)
    await room.look(20 * MINUTE)
    await room.look_after_an_absence(HOUR)
    (notice,) = room.store.notices()
    assert notice.stops_at == room.clock.time + 10 * MINUTE
    assert room.hub.stopped == []


async def test_an_extension_keeps_it(room: Room) -> None:
    idle(room)
    await room.look(20 * MINUTE)
    (notice,) = room.store.notices()
    assert room.store.extend(notice, room.clock.time)
    await room.look(10 * MINUTE)
    assert room.store.notices() == []
    await room.look(20 * MINUTE)
    (again,) = room.store.notices()
    assert (again.next_extension, again.n_extensions_left) == (2, 1)
    assert again.stops_at == NOW + HOUR
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "warned", "stopped"]


async def test_an_extension_in_the_last_moment_counts(room: Room) -> None:
    """It is taken after the steward has judged, and before it claims the stop."""
    idle(room)
    await room.look(20 * MINUTE)
    (notice,) = room.store.notices()
    await room.look(10 * MINUTE - SECOND)
    room.clock.time += SECOND
    await room.steward.once()  # its stop has not begun yet: nothing has waited
    assert room.store.extend(notice, room.clock.time)
    await room.steward.settled()
    assert room.hub.stopped == []
    await room.look()
    assert room.store.notices() == []


async def test_the_plugin_has_the_last_word(room: Room) -> None:
    """Its reading is newer than the steward's."""
    lease = idle(room)

    def wakes(line: str) -> None:
        if line.startswith("POST"):
            lease.busy()

    await room.look(20 * MINUTE)
    room.hub.on = wakes
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "kept"]
    assert room.store.events()[0].sentence == "It computes again."
    assert room.hub.stopped == []
    assert room.store.claims() == {}


@pytest.mark.parametrize(
    ("reason", "text", "is_asked"),
    [
        ("health", "idle_minutes = false", True),
        ("max_age", "idle_minutes = false\nmax_age_hours = 1", True),
        (
            "max_age",
            "idle_minutes = false\nmax_age_hours = 1\nmax_age_stops_busy = true",
            False,
        ),
    ],
)
async def test_the_plugin_is_asked_whether_it_is_idle_for_every_reason_that_needs_it(
    room: Room, reason: str, text: str, is_asked: bool
) -> None:
    """It looks once more then; see gpuspawner.window."""
    room.policy = rules(f"[default]\n{text}\n")
    room.begin()
    lease = idle(room)
    lease.health = "draining" if reason == "health" else "healthy"
    await until_stop(room)
    (why,) = room.hub.reasons
    assert why["reason"] == reason
    assert why["idle_since"] == (NOW.isoformat() if is_asked else None)


async def test_a_stop_that_takes_long_is_noted_when_it_is_done(room: Room) -> None:
    lease = idle(room)
    room.hub.is_slow = True
    await until_stop(room)
    await room.look(SECOND)
    assert room.actions == ["warned"]
    del room.hub.leases[lease.id]
    await room.look(SECOND)
    assert room.actions == ["warned", "stopped"]
    assert len(room.hub.stopped) == 1


async def test_a_hub_that_refuses_is_asked_again(room: Room) -> None:
    idle(room)
    await room.look(20 * MINUTE)
    room.hub.on = lambda line: (
        httpx.Response(500, json={"message": "no"}) if "DELETE" in line else None
    )
    for _ in range(3):
        await room.look(10 * MINUTE)
    assert room.actions == ["warned", "failed"]
    room.hub.on = lambda _: None
    await room.look(MINUTE)
    assert room.actions == ["warned", "failed", "stopped"]


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(500),
        httpx.Response(403, json={"message": "no"}),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"version": 2}),
        httpx.Response(200, json={"version": 1, "is_ready": False}),
        httpx.Response(200, json={"items": [{}], "_pagination": {"next": None}}),
        httpx.Response(200, json={"items": [], "_pagination": {"next": {"offset": 0}}}),
        httpx.ConnectError("gone"),
    ],
)
@pytest.mark.parametrize("asked", ["GET /gpus", "GET /users"])
async def test_what_is_not_known_stops_nothing(
    room: Room, asked: str, answer: httpx.Response | Exception
) -> None:
    """And what users were told stays, until the hub answers again."""
    idle(room)
    await room.look(20 * MINUTE)

    def says(line: str) -> httpx.Response | None:
        if line != asked:
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer

    room.hub.on = says
    await room.look(HOUR)
    assert room.hub.stopped == []
    assert len(room.store.notices()) == 1
    look = room.store.look()
    assert look is not None
    assert look.trouble
    room.hub.on = lambda _: None
    await room.look(MINUTE)
    await room.look(10 * MINUTE)
    assert room.actions == ["warned", "warned", "stopped"]


async def test_a_short_silence_postpones_nothing(room: Room) -> None:
    idle(room)
    await room.look(28 * MINUTE)
    room.hub.on = lambda line: httpx.Response(503) if "GET" in line else None
    await room.look(MINUTE)
    room.hub.on = lambda _: None
    await room.look(MINUTE)
    assert room.actions == ["warned", "stopped"]


async def test_a_clock_that_differs_stops_nothing(room: Room) -> None:
    idle(room)
    await room.look(20 * MINUTE)
    said = room.hub.gpus() | {"at": LONG_AGO.isoformat()}
    room.hub.on = lambda line: (
        httpx.Response(200, json=said) if line == "GET /gpus" else None
    )
    await room.look(HOUR)
    assert room.hub.stopped == []


@pytest.mark.parametrize(
    "odd",
    [
        {"pending": "stop"},
        {"state": "starting"},
        {"state": "releasing"},
        {"use": "asleep"},
        {"health": "?"},
    ],
)
async def test_a_server_in_an_odd_state_is_left_alone(
    room: Room, odd: dict[str, str]
) -> None:
    """The others are judged all the same."""
    first = idle(room)
    second = room.hub.add(replace(first, id="ls_2", user="bob"))
    for name, value in odd.items():
        setattr(first, name, value)
    await until_stop(room)
    assert second.id not in room.hub.leases
    assert (first.id in room.hub.leases) == (odd != {"health": "?"})


async def test_an_idle_one_of_which_nobody_knows_since_when_goes_on(
    room: Room,
) -> None:
    lease = idle(room)
    lease.idle_since = None
    await until_stop(room)
    (seen,) = room.store.seen()
    assert (seen.verdict, seen.use) == (Verdict.KEEP, "unknown")


def rules(text: str) -> Policy:
    assert tomllib.loads(text)
    return reading.read(text)


async def test_a_dry_run_only_notes(room: Room) -> None:
    """Once what it would have said, once what it would have done."""
    room.policy = replace(room.policy, is_dry_run=True)
    room.begin()
    idle(room)
    for _ in range(10):
        await room.look(5 * MINUTE)
    assert room.actions == ["warned", "stopped"]
    assert all(event.is_dry_run for event in room.store.events())
    assert room.hub.stopped == room.posts == []
    assert room.hub.reasons == []
    assert room.store.notices() == []


async def test_after_a_dry_run_users_are_warned_first(room: Room) -> None:
    room.policy = replace(room.policy, is_dry_run=True)
    room.begin()
    idle(room)
    await until_stop(room)
    room.policy = replace(room.policy, is_dry_run=False)
    room.begin()
    await room.look(MINUTE)
    assert room.hub.stopped == []
    (notice,) = room.store.notices()
    assert notice.stops_at == room.clock.time + 10 * MINUTE


async def test_a_course_can_be_tried_alone(room: Room) -> None:
    room.policy = rules("[course.cs101]\ndry_run = true\n")
    room.begin()
    first = idle(room, course="cs101")
    room.hub.add(replace(first, id="ls_2", user="bob", course=None))
    await until_stop(room)
    assert room.hub.leases == {"ls_1": first}


async def test_tokens_are_counted_down_only(room: Room) -> None:
    room.hub.add(Lease("ls_1", "alice", tokens_end_at=NOW + 5 * MINUTE))
    await room.look()
    (notice,) = room.store.notices()
    assert (notice.reason, notice.stops_at) == (Reason.TOKENS, NOW + 5 * MINUTE)
    await room.look(HOUR)
    assert room.hub.stopped == []
    assert room.store.notices() == []


async def test_many_are_stopped_a_few_at_a_time(room: Room) -> None:
    """And looks go on meanwhile."""
    for i in range(40):
        lease = room.hub.add(Lease(f"ls_{i}", f"user{i}"))
        lease.idle(NOW)
    running = most = 0
    plain = room.hub.stop

    def counts(line: str) -> httpx.Response | None:
        nonlocal running, most
        if line.startswith("POST"):
            running += 1
            most = max(most, running)
        return None

    def stops(line: str) -> httpx.Response:
        nonlocal running
        running -= 1
        return plain(line)

    room.hub.on, room.hub.stop = counts, stops  # type: ignore[method-assign]
    await room.look(20 * MINUTE)
    await room.look(10 * MINUTE - SECOND)
    room.clock.time += SECOND
    await room.steward.once()
    await room.steward.once()
    await room.steward.settled()
    assert most <= 10
    assert room.actions.count("stopped") == len(room.hub.stopped) == 40
    assert room.actions.count("warned") == 40


# -- kills -----------------------------------------------------------------------------

STEPS = [
    "claim", "mark", "POST", "answer to POST", "DELETE", "answer to DELETE", "unclaim",
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
async def test_a_steward_killed_anywhere_goes_on_where_it_was(
    room: Room, step: str
) -> None:
    """The server is stopped once, its user hears of it once."""
    idle(room)
    await room.look(20 * MINUTE)
    died = kill_at(room, step)
    await room.look(10 * MINUTE - SECOND)
    room.clock.time += SECOND
    await room.steward.once()
    await room.steward.settled()
    assert died
    room.hub.on = lambda _: None
    room.begin()
    for _ in range(3):
        await room.look(SECOND)
    assert room.actions == ["warned", "stopped"]
    assert room.hub.leases == {}
    assert sorted(id_.split("-")[1] for id_ in room.posts) == [
        *["stopped"] * 2, *["warned"] * 2,
    ]  # fmt: skip
    assert room.store.claims() == {}


@pytest.mark.parametrize("step", STEPS)
async def test_one_that_computes_again_after_a_kill_goes_on(
    room: Room, step: str
) -> None:
    """Unless it was stopped already."""
    lease = idle(room)
    await room.look(20 * MINUTE)
    kill_at(room, step)
    await room.look(10 * MINUTE - SECOND)
    room.clock.time += SECOND
    await room.steward.once()
    await room.steward.settled()
    room.hub.on = lambda _: None
    lease.busy()
    is_stopped = lease.id not in room.hub.leases
    room.begin()
    for _ in range(3):
        await room.look(SECOND)
    assert (lease.id not in room.hub.leases) == is_stopped
    assert room.actions.count("stopped") == is_stopped
    assert room.store.claims() == {}


@pytest.mark.parametrize("method", ["keep", "told", "claims", "extensions"])
async def test_a_steward_killed_while_it_looks_warns_once(
    room: Room, method: str
) -> None:
    idle(room)
    room.clock.time += 20 * MINUTE
    dies(room, method)
    with pytest.raises(Killed):
        await room.steward.once()
    room.begin()
    await room.look(SECOND)
    await room.look(SECOND)
    assert room.actions == ["warned"]
    assert len(room.posts) == 2
    assert len(room.store.notices()) == 1


def dies(room: Room, method: str) -> list[str]:
    """Let the steward die when it calls this of its store; returns when it did."""
    died: list[str] = []

    def never(*_: object, **__: object) -> None:
        died.append(method)
        raise Killed

    setattr(room.store, method, never)
    return died


def kill_at(room: Room, step: str) -> list[str]:
    """Let the steward die before a step of a stop, or before its answer."""
    if step in {"claim", "mark", "unclaim"}:
        return dies(room, step)
    died: list[str] = []

    def on(line: str) -> httpx.Response | None:
        if not line.startswith(step.split(maxsplit=2)[-1]):
            return None
        died.append(line)
        if step == "answer to DELETE":
            room.hub.stop(line)
        raise Killed

    room.hub.on = on
    return died
