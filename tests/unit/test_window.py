"""Admins see every GPU, who holds it and why, who waits, and what is not known."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from gpuspawner import window
from gpuspawner.admission import Admission
from gpuspawner.exits import Exit
from gpuspawner.faults import Finding, Health
from gpuspawner.health import HealthBook
from gpuspawner.idleness import NOT_YET, LeaseUse, Observed, SlotUse
from gpuspawner.model import (
    Device,
    Instance,
    Lease,
    Owner,
    SlotKind,
    SlotRequest,
    Terms,
    whole,
)
from gpuspawner.pool import Pool
from gpuspawner.recovery import Plan
from gpuspawner.sample import GpuProcess, Sample, Sweep
from gpuspawner.signals import Thresholds, Use
from gpuspawner.tickets import Ticket
from gpuspawner.view import NOT_READY, SLOT_STATES, Facts, show, show_device
from jupyterhub.apihandlers.base import APIHandler
from testbed.engine import wait_until
from tornado import web
from traitlets.config import Config
from unit.machine import Machine

GIB = 2**30
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
LATER = NOW + timedelta(seconds=30)
ANN, BOB = Owner("ann", "lab"), Owner("bob", "")
JSON = dict[str, Any]
README = Path(__file__).resolve().parents[2] / "spawner" / "README.md"

KEYS = {
    "version", "at", "is_ready", "trouble", "absence", "sampling", "devices", "slots",
    "leases", "queue", "boots", "alarms",
}  # fmt: skip
DEVICE_KEYS = {
    "uuid", "index", "name", "memory_bytes", "is_simulated", "is_lost", "is_split",
    "health", "sample",
}  # fmt: skip
HEALTH_KEYS = {"state", "since", "reason", "causes", "evidence", "override"}
SAMPLE_KEYS = {
    "age_s", "utilisation", "memory_used_bytes", "temperature_c", "power_w",
    "n_processes",
}  # fmt: skip
SLOT_KEYS = {
    "id", "uuid", "device", "kind", "type", "profile", "memory_bytes",
    "memory_used_bytes", "state", "why", "lease",
}  # fmt: skip


def device(index: int, **more: Any) -> Device:
    return Device(index, f"GPU-{index:08x}", "A100", 40 * GIB, index, **more)


def ready_pool(*devices: Device, shares: Mapping[str, int] | None = None) -> Pool:
    pool = Pool(shares)
    pool.see(devices, NOW)
    pool.apply(Plan(), NOW)
    pool.cleaned(list(pool.slots))
    return pool


def facts(pool: Pool, **more: Any) -> Facts:
    return Facts(pool, more.pop("book", HealthBook()), interval_s=10.0, **more)


def shown(pool: Pool, **more: Any) -> JSON:
    """What admins get, after a way through JSON."""
    found: JSON = json.loads(json.dumps(show(facts(pool, **more), LATER)))
    return found


def the_slot(pool: Pool, **more: Any) -> JSON:
    slots: list[JSON] = shown(pool, **more)["slots"]
    return slots[0]


# -- slots ---------------------------------------------------------------------------


def test_a_free_slot_is_free_without_a_why() -> None:
    """Nothing speaks against it."""
    slot = the_slot(ready_pool(device(0)))
    assert (slot["state"], slot["why"], slot["lease"]) == ("free", None, None)


def test_a_leased_slot_says_who_and_why_this_one() -> None:
    """The choice in one line, and the lease that holds it."""
    pool = ready_pool(device(0))
    lease = pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    slot = the_slot(pool)
    assert lease.why
    assert (slot["state"], slot["why"], slot["lease"]) == ("leased", lease.why, "ls_1")


def test_a_slot_whose_device_is_held_otherwise_says_so() -> None:
    """A GPU that was configured as shares while somebody had all of it."""
    pool = ready_pool(device(0), shares={"0": 2})
    pool.apply(Plan(adopt=(Lease("ls_1", ANN, (whole(device(0)),)),)), NOW)
    slot = the_slot(pool)
    assert (slot["kind"], slot["state"], slot["lease"]) == ("share", "leased", "ls_1")
    assert slot["why"] == "ann/lab holds the same GPU in another way"


def test_a_returned_slot_waits_to_be_seen_clean() -> None:
    """It is not free just because its lease ended."""
    pool = ready_pool(device(0))
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.release("ls_1", NOW)
    slot = the_slot(pool)
    assert slot["state"] == "returned"
    assert NOW.isoformat() in slot["why"]


def test_an_unfit_slot_says_what_its_device_lacks() -> None:
    """The reason that the health of the device gave."""
    pool = ready_pool(device(0))
    pool.judge({device(0).uuid: "Unfit: it burns."})
    slot = the_slot(pool)
    assert (slot["state"], slot["why"]) == ("unfit", "Unfit: it burns.")


def test_a_lost_device_is_unfit() -> None:
    """Also before its health was judged."""
    slot = the_slot(ready_pool(device(0, is_lost=True)))
    assert (slot["state"], slot["why"]) == ("unfit", "The driver cannot reach it.")


def test_a_slot_that_another_container_holds_is_foreign() -> None:
    """The container is named."""
    pool = ready_pool(device(0))
    pool.apply(Plan(foreign={device(0).uuid: "trainer"}), NOW)
    slot = the_slot(pool)
    assert (slot["state"], slot["why"]) == ("foreign", "used by the container trainer")


def test_while_the_driver_cannot_be_read_nothing_is_free() -> None:
    """What cannot be granted is not shown as free."""
    pool = ready_pool(device(0))
    pool.trouble = "A GPU may be stuck."
    seen = shown(pool)
    assert seen["trouble"] == "A GPU may be stuck."
    assert seen["slots"][0]["state"] == "unfit"


def test_what_is_shown_as_free_is_what_the_pool_grants() -> None:
    """In every state there is, and each of these states is one of the known ones."""
    pool = ready_pool(*(device(i) for i in range(6)), shares={"5": 2})
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.acquire("ls_2", BOB, SlotRequest(1, SlotKind.SHARE), NOW)
    returned = pool.acquire("ls_3", BOB, SlotRequest(1), NOW).slots[0]
    pool.release("ls_3", NOW)
    free = [slot for slot in pool.free if slot.kind is SlotKind.DEVICE]
    pool.judge({free[0].uuid: "broken"})
    pool.apply(Plan(foreign={free[1].uuid: "trainer"}), NOW)
    states = {slot["id"]: slot["state"] for slot in shown(pool)["slots"]}
    assert {key for key, state in states.items() if state == "free"} == {
        slot.id for slot in pool.free
    }
    assert states[returned.id] == "returned"
    assert set(states.values()) == set(SLOT_STATES)


def test_instances_and_shares_tell_their_part() -> None:
    """Kind, profile, type and the device they are of."""
    parts = (Instance("MIG-1", "3g.20gb", 20 * GIB, 1),)
    pool = ready_pool(
        device(0, is_split=True, instances=parts), device(1), shares={"1": 4}
    )
    used = {"MIG-1": Sample("MIG-1", NOW, memory_used_bytes=GIB)}
    slots = shown(pool, sweep=Sweep(used))["slots"]
    assert [slot["kind"] for slot in slots] == ["mig", *4 * ["share"]]
    mig, share = slots[0], slots[1]
    assert (mig["uuid"], mig["profile"], mig["type"]) == (
        "MIG-1", "3g.20gb", "A100 MIG 3g.20gb",
    )  # fmt: skip
    assert mig["memory_used_bytes"] == GIB
    assert (share["uuid"], share["device"], share["profile"]) == (
        device(1).uuid, device(1).uuid, "1/4",
    )  # fmt: skip
    assert share["memory_bytes"] == 10 * GIB
    assert share["memory_used_bytes"] is None


# -- devices -------------------------------------------------------------------------


def test_what_was_never_read_is_null() -> None:
    """Nothing is guessed; the keys are there all the same."""
    found = shown(ready_pool(device(0)))
    assert found["devices"][0]["sample"] == dict.fromkeys(SAMPLE_KEYS)
    assert found["sampling"] == {
        "interval_s": 10.0,
        "age_s": None,
        "reading_s": None,
        "round_s": None,
        "reader_cpu_s": None,
    }


def test_a_reading_tells_its_age() -> None:
    """Who looks can tell an old value from a new one."""
    sample = Sample(
        device(0).uuid,
        NOW,
        utilisation=0.5,
        memory_used_bytes=GIB,
        processes=(GpuProcess(1, GIB), GpuProcess(2, None)),
        temperature_c=60,
        power_w=250.5,
    )
    sweep = Sweep({sample.uuid: sample}, took_s=0.25)
    found = shown(ready_pool(device(0)), sweep=sweep, round_s=0.5, reader_cpu_s=3.5)
    assert found["devices"][0]["sample"] == {
        "age_s": 30.0,
        "utilisation": 0.5,
        "memory_used_bytes": GIB,
        "temperature_c": 60,
        "power_w": 250.5,
        "n_processes": 2,
    }
    assert found["sampling"] == {
        "interval_s": 10.0,
        "age_s": 30.0,
        "reading_s": 0.25,
        "round_s": 0.5,
        "reader_cpu_s": 3.5,
    }


def test_an_unsupported_reading_is_null_and_no_zero() -> None:
    """Utilisation of a split GPU is not known; that no program runs is known."""
    sample = Sample(device(0).uuid, NOW, processes=())
    found = shown(ready_pool(device(0)), sweep=Sweep({sample.uuid: sample}))
    assert found["devices"][0]["sample"]["utilisation"] is None
    assert found["devices"][0]["sample"]["n_processes"] == 0


def test_health_tells_state_reason_evidence_and_an_admins_word() -> None:
    """All that an admin needs to decide."""
    book, uuid = HealthBook(), device(0).uuid
    book.report(uuid, Finding.UNCLEAN, "process 17 is left", NOW, "ann")
    health = shown(ready_pool(device(0)), book=book)["devices"][0]["health"]
    assert health["state"] == "draining"
    assert "process 17 is left" in health["reason"]
    assert health["causes"][0]["code"] == "unclean"
    assert health["evidence"] == [
        {
            "at": NOW.isoformat(),
            "code": "unclean",
            "text": "process 17 is left",
            "user": "ann",
            "n": 1,
        }
    ]
    assert health["override"] is None

    book.override(uuid, Health.QUARANTINED, "fan is loud", admin="eve", now=LATER)
    health = shown(ready_pool(device(0)), book=book)["devices"][0]["health"]
    assert health["state"] == "quarantined"
    assert health["since"] == LATER.isoformat()
    assert health["override"] == {
        "state": "quarantined",
        "note": "fan is loud",
        "admin": "eve",
        "at": LATER.isoformat(),
    }


@pytest.mark.parametrize("state", list(Health))
def test_every_state_of_health_is_told_by_its_name(state: Health) -> None:
    """Also those an admin cannot give."""
    book, uuid = HealthBook(), device(0).uuid
    book.report(uuid, Finding.UNCAPPED, "no cap", NOW)
    book = HealthBook.from_json(
        {"devices": {uuid: {"judged": state.value, "since": NOW.isoformat()}}}
    )
    health = shown(ready_pool(device(0)), book=book)["devices"][0]["health"]
    assert health["state"] == state.value
    assert (health["reason"] is None) == (state is Health.HEALTHY)


def test_devices_come_by_index_and_simulated_ones_say_so() -> None:
    """A stand-in is never taken for a GPU."""
    fake = Device(0, "GPU-f", "A100 (simulated)", 40 * GIB, 0)
    rows = shown(ready_pool(device(1), fake))["devices"]
    assert [row["index"] for row in rows] == [0, 1]
    assert [row["is_simulated"] for row in rows] == [True, False]


def test_one_device_is_shown_as_among_all() -> None:
    """What a change answers with."""
    found = facts(ready_pool(device(0)))
    assert show_device(device(0).uuid, found, LATER) == show(found, LATER)["devices"][0]
    assert show_device("GPU-other", found, LATER) is None


# -- leases, queue, boots ------------------------------------------------------------


def test_a_lease_tells_whose_since_when_and_why() -> None:
    """One row per server, also of CPU only."""
    pool = ready_pool(device(0))
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.acquire("ls_2", BOB, SlotRequest(0), NOW)
    gpu, cpu = shown(pool)["leases"]
    assert gpu == {
        "id": "ls_1",
        "user": "ann",
        "server": "lab",
        "state": "starting",
        "since": NOW.isoformat(),
        "why": pool.leases["ls_1"].why,
        "offer": None,
        "course": None,
        "ready_at": None,
        "tokens_end_at": None,
        "slots": [{"id": device(0).uuid, "device": device(0).uuid, "kind": "device"}],
        "cap": {"bytes": 40 * GIB, "by": "hardware"},
        "use": {
            "state": "unknown",
            "since": LATER.isoformat(),
            "idle_since": None,
            "why": NOT_YET,
            "slots": [],
        },
    }
    assert (cpu["slots"], cpu["cap"], cpu["use"]) == ([], None, None)


def test_a_lease_tells_what_it_was_started_as_and_when_its_tokens_end() -> None:
    """A CPU server, too; without a course there is none."""
    pool = ready_pool(device(0))
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.acquire("ls_2", BOB, SlotRequest(0), NOW)
    terms = {"ls_1": Terms("1-gpu", "cs101", NOW), "ls_2": Terms("cpu")}
    gpu, cpu = shown(pool, terms=terms, tokens_end={"ls_1": LATER})["leases"]
    keys = ("offer", "course", "ready_at", "tokens_end_at")
    assert [gpu[key] for key in keys] == [
        "1-gpu", "cs101", NOW.isoformat(), LATER.isoformat(),
    ]  # fmt: skip
    assert [cpu[key] for key in keys] == ["cpu", None, None, None]


def test_a_lease_tells_whether_its_gpus_compute() -> None:
    """With each slot; a reading that is old says nothing any more."""
    pool = ready_pool(device(0))
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    slot = SlotUse(device(0).uuid, Use.IDLE, "No program is on it.")
    use = LeaseUse(Use.IDLE, NOW, NOW, slot.why, (slot,))
    assert shown(pool, observed=Observed(LATER, {"ls_1": use}))["leases"][0]["use"] == {
        "state": "idle",
        "since": NOW.isoformat(),
        "idle_since": NOW.isoformat(),
        "why": "No program is on it.",
        "slots": [
            {"id": device(0).uuid, "state": "idle", "why": "No program is on it."}
        ],
    }
    old = LATER - timedelta(seconds=61)
    found = shown(pool, observed=Observed(old, {"ls_1": use}))["leases"][0]["use"]
    assert (found["state"], found["idle_since"]) == ("unknown", None)
    assert found["since"] == old.isoformat()
    assert [row["state"] for row in found["slots"]] == ["unknown"]


def test_the_cap_of_a_share_tells_what_keeps_it() -> None:
    """Unknown until it was put in place: never taken for granted."""
    pool = ready_pool(device(0), shares={"0": 4})
    pool.acquire("ls_1", ANN, SlotRequest(1, SlotKind.SHARE), NOW)
    assert shown(pool)["leases"][0]["cap"] == {"bytes": 10 * GIB, "by": None}
    capped = shown(pool, caps={"ls_1": "driver"})["leases"][0]["cap"]
    assert capped == {"bytes": 10 * GIB, "by": "driver"}


def test_the_queue_tells_who_waits_for_what_in_its_order() -> None:
    """With position and expected wait."""
    pool = ready_pool(device(0))
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.join(Ticket("ls_3", Owner("late", ""), SlotRequest(1), LATER))
    pool.join(Ticket("ls_2", BOB, SlotRequest(1), NOW, "ml"))
    first, second = shown(pool, places=pool.places(LATER))["queue"]
    assert first.pop("wait_s") > 0
    assert first.pop("text").startswith("You are number 1 in the queue")
    assert first == {
        "ticket": "ls_2",
        "user": "bob",
        "server": "",
        "course": "ml",
        "request": {
            "n_slots": 1,
            "kind": "device",
            "type": None,
            "min_memory_bytes": 0,
            "must_be_connected": False,
            "text": "1 GPU",
        },
        "asked_at": NOW.isoformat(),
        "position": 1,
        "is_possible": True,
    }
    assert (second["ticket"], second["position"]) == ("ls_3", 2)


def test_a_ticket_without_a_place_yet_is_shown_last() -> None:
    """Places are a little old: nobody is left out for that."""
    pool = ready_pool(device(0))
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.join(Ticket("ls_2", BOB, SlotRequest(1), LATER))
    places = pool.places(LATER)
    pool.join(Ticket("ls_0", Owner("early", ""), SlotRequest(1), NOW))
    rows = shown(pool, places=places)["queue"]
    assert [row["ticket"] for row in rows] == ["ls_2", "ls_0"]
    assert (rows[1]["position"], rows[1]["wait_s"]) == (None, None)


def test_boots_tell_who_boots_who_waits_and_the_limit() -> None:
    """Before the first boot the limit is not known."""
    pool = ready_pool(device(0))
    assert shown(pool)["boots"] == {"booting": [], "waiting": [], "limit": None}
    admission = Admission(1)
    for name in ("ls_1", "ls_2", "ls_3"):
        admission.ask(name, NOW)
    assert shown(pool, admission=admission)["boots"] == {
        "booting": ["ls_1", "ls_2"],
        "waiting": ["ls_3"],
        "limit": 2,
    }


def test_a_hub_that_knows_nothing_yet_says_so() -> None:
    """Empty is not the same as unknown."""
    found = shown(Pool(), absence="There is no NVIDIA driver.")
    assert found["is_ready"] is False
    assert found["trouble"] == NOT_READY
    assert found["absence"] == "There is no NVIDIA driver."
    assert shown(ready_pool())["trouble"] is None


def test_before_the_containers_were_read_nothing_is_free() -> None:
    """Who holds what is not known."""
    pool = Pool()
    pool.see([device(0)], NOW)
    pool.cleaned(list(pool.slots))
    assert (the_slot(pool)["state"], the_slot(pool)["why"]) == ("unfit", NOT_READY)


def test_the_keys_never_change() -> None:
    """Programs rely on them: a key that goes away needs a new version."""
    pool = ready_pool(device(0))
    found = shown(pool, alarms=[(NOW, "GPU 0 burns")])
    assert found["version"] == 1
    assert found.keys() == KEYS
    assert found["devices"][0].keys() == DEVICE_KEYS
    assert found["devices"][0]["health"].keys() == HEALTH_KEYS
    assert found["devices"][0]["sample"].keys() == SAMPLE_KEYS
    assert found["slots"][0].keys() == SLOT_KEYS
    assert found["alarms"] == [{"at": NOW.isoformat(), "text": "GPU 0 burns"}]


# -- an admin's word -----------------------------------------------------------------


def test_an_admins_word_is_read() -> None:
    """A state with a note, or null to take an earlier word back."""
    word = b'{"state": "quarantined", "note": "loud fan"}'
    assert window.read_word(word) == (Health.QUARANTINED, "loud fan")
    assert window.read_word(b'{"state": null}') == (None, "")


@pytest.mark.parametrize(
    "body",
    [
        None, [], "healthy", 3, {}, {"note": "why"}, {"state": "broken", "note": "x"},
        {"state": 1, "note": "x"}, {"state": ["healthy"], "note": "x"},
        {"state": True}, {"state": "healthy", "note": 5},
        {"state": "healthy", "note": None}, {"state": None, "note": []},
        {"state": "healthy", "note": "x", "force": True},
    ],
)  # fmt: skip
def test_anything_else_is_answered_with_what_to_send(body: object) -> None:
    """One sentence, whatever was sent."""
    with pytest.raises(ValueError, match=r"^Send {"):
        window.read_word(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_answered_likewise(body: bytes) -> None:
    """Without a traceback in the log, which JupyterHub's own reading leaves there."""
    with pytest.raises(ValueError, match=r"^Send {"):
        window.read_word(body)


# -- why a server is about to end ------------------------------------------------------

SENTENCE = "Your last server stopped: its GPU was idle."


def test_a_reason_is_read() -> None:
    """With the moment since which its server must be idle, if that matters."""
    told = {"reason": "idle", "sentence": SENTENCE, "idle_since": NOW.isoformat()}
    found = window.read_ending(json.dumps(told).encode())
    assert found == window.Ending("idle", SENTENCE, NOW)
    for rest in ("", ', "idle_since": null'):
        body = f'{{"reason": "max_age", "sentence": "{SENTENCE}"{rest}}}'
        found = window.read_ending(body.encode())
        assert found == window.Ending("max_age", SENTENCE, None)


@pytest.mark.parametrize(
    "body",
    [
        None, [], "idle", 3, {}, {"reason": "idle"}, {"sentence": SENTENCE},
        {"reason": "out_of_tokens", "sentence": SENTENCE},
        {"reason": None, "sentence": SENTENCE}, {"reason": "idle", "sentence": " "},
        {"reason": "idle", "sentence": "x" * 1001}, {"reason": "idle", "sentence": 5},
        {"reason": "idle", "sentence": SENTENCE, "idle_since": "yesterday"},
        {"reason": "idle", "sentence": SENTENCE, "idle_since": 1772442000},
        {"reason": "idle", "sentence": SENTENCE, "idle_since": "2026-03-02T09:00:00"},
        {"reason": "idle", "sentence": SENTENCE, "force": True},
    ],
)  # fmt: skip
def test_another_reason_is_answered_with_what_to_send(body: object) -> None:
    """A time without a time zone is none."""
    with pytest.raises(ValueError, match=r"^Send {"):
        window.read_ending(json.dumps(body).encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_reason_that_is_no_json_is_answered_likewise(body: bytes) -> None:
    """Without a traceback in the log."""
    with pytest.raises(ValueError, match=r"^Send {"):
        window.read_ending(body)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    """One GPU that tells everything, read every moment."""
    made = Machine(tmp_path, 1)
    made.host.rounds._thresholds = Thresholds(shortest=timedelta(0))
    made.probe.watts["GPU-0"] = 50.0
    await made.settle()
    yield made
    made.end()


async def idle_since(machine: Machine, lease: Lease) -> datetime:
    """Since when it is idle, after two readings."""
    for _ in range(2):
        await machine.host.look_round()
    found = machine.host.rounds.observed.uses[lease.id].idle_since
    assert found
    return found


def announced(machine: Machine, lease: Lease) -> Exit | None:
    """The reason that a stop would have now."""
    return machine.host.announced.take(lease.id, time.monotonic())


async def test_a_reason_counts_for_a_server_that_is_idle(machine: Machine) -> None:
    """Since the moment that was told, or longer."""
    lease = machine.server("ann")
    since = await idle_since(machine, lease)
    for at in (since, since + timedelta(seconds=1)):
        said = window.Ending("idle", SENTENCE, at)
        await window.announce(machine.host, lease.id, said)
        ended = announced(machine, lease)
        assert ended
        assert (ended.reason, ended.sentence) == ("idle", SENTENCE)
        assert datetime.fromisoformat(ended.at) >= since


async def test_a_server_that_has_just_become_busy_is_not_ended_as_idle(
    machine: Machine,
) -> None:
    """The reading on which that was decided is seconds old: the GPUs are read again."""
    lease = machine.server("ann")
    said = window.Ending("idle", SENTENCE, await idle_since(machine, lease))
    machine.probe.utilisation["GPU-0"] = 0.9
    with pytest.raises(web.HTTPError) as caught:
        await window.announce(machine.host, lease.id, said)
    assert caught.value.status_code == 409
    assert "A kernel ran 90" in str(caught.value)
    del machine.probe.utilisation["GPU-0"]
    await idle_since(machine, lease)
    with pytest.raises(web.HTTPError, match="idle only since"):
        await window.announce(machine.host, lease.id, said)
    assert announced(machine, lease) is None


async def test_nobody_knows_whether_a_server_is_idle_whose_gpu_is_not_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver fails, or it hangs."""
    lease = machine.server("ann")
    said = window.Ending("idle", SENTENCE, await idle_since(machine, lease))
    machine.probe.why = "The driver is gone."
    with pytest.raises(web.HTTPError, match="could not be read"):
        await window.announce(machine.host, lease.id, said)
    monkeypatch.setattr(window, "ANSWER_WITHIN_S", 0.01)
    machine.probe.why = ""
    machine.probe.gate.clear()
    with pytest.raises(web.HTTPError, match="do not answer"):
        await window.announce(machine.host, lease.id, said)
    machine.probe.gate.set()
    assert announced(machine, lease) is None


async def test_only_a_server_that_runs_is_about_to_end(machine: Machine) -> None:
    """Whatever the reason."""
    said = window.Ending("max_age", SENTENCE, None)
    with pytest.raises(web.HTTPError, match="no lease") as caught:
        await window.announce(machine.host, "ls_none", said)
    assert caught.value.status_code == 404
    lease = machine.lease("ann")
    with pytest.raises(web.HTTPError, match="does not run") as caught:
        await window.announce(machine.host, lease.id, said)
    assert caught.value.status_code == 409


async def test_a_cpu_server_ends_for_a_reason_too_but_is_never_idle_by_its_gpu(
    machine: Machine,
) -> None:
    lease = machine.server("ann", 0)
    await window.announce(
        machine.host, lease.id, window.Ending("cpu_idle", SENTENCE, None)
    )
    assert announced(machine, lease)
    with pytest.raises(web.HTTPError, match="is not idle"):
        await window.announce(
            machine.host, lease.id, window.Ending("idle", SENTENCE, NOW)
        )


def test_the_handlers_take_no_name_of_jupyterhubs() -> None:
    """But for those that a handler is meant to have."""
    ours = {*vars(window._HostHandler), *vars(window.GPUHandler)}
    ours |= set(vars(window.EndingHandler))
    theirs = {name for name in dir(APIHandler) if not name.startswith("__")}
    assert ours & theirs == {"initialize", "post"}


# -- on somebody's hub ---------------------------------------------------------------


def test_the_lines_of_the_readme_open_the_window() -> None:
    """They are valid configuration, and give the scopes that the handlers ask for."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    lines = next(block for block in blocks if "window" in block)
    found = Config()
    exec(lines, {"c": found})  # noqa: S102 - this repository's own documentation
    paths = [path for path, *_ in found.JupyterHub.extra_handlers]
    assert paths == [
        r"/api/gpus", r"/api/gpus/([^/]+)", r"/api/leases/([^/]+)/ending", r"/gpus",
    ]  # fmt: skip
    (role,) = found.JupyterHub.load_roles
    assert set(role["scopes"]) == {window.READ, window.MANAGE}


HUB = """
from gpuspawner import window
from gpuspawner.spawner import GPUDockerSpawner
from jupyterhub.proxy import Proxy

class NoProxy(Proxy):
    should_start = False
    async def add_route(self, routespec, target, data): pass
    async def delete_route(self, routespec): pass
    async def get_all_routes(self): return {{}}

class TheirSpawner(GPUDockerSpawner):
    pass

c.JupyterHub.proxy_class = NoProxy
c.JupyterHub.bind_url = "http://127.0.0.1:{port}/x"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.db_url = "sqlite:///:memory:"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.Authenticator.admin_users = {{"boss"}}
c.JupyterHub.spawner_class = TheirSpawner
c.GPUDockerSpawner.image = "none"
c.JupyterHub.extra_handlers = window.handlers(TheirSpawner) + [
    ("/api/for-another", window.GPUsHandler, {{"made_for": GPUDockerSpawner}})
]
c.JupyterHub.services = [
    {{"name": name, "api_token": name * 8}}
    for name in ("graphs", "keeper", "nobody", "steward")
]
c.JupyterHub.load_roles = [
    {{"name": "gpu-graphs", "scopes": [window.READ, "read:metrics"],
      "services": ["graphs"]}},
    {{"name": "gpu-keeper", "scopes": [window.MANAGE], "services": ["keeper"]}},
    {{"name": "stopper", "scopes": [window.END], "services": ["steward"]}},
]
"""
Ask = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Asks a hub without an engine, as one of its services."""
    folder = tmp_path_factory.mktemp("hub")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config.py").write_text(HUB.format(port=port))

    def asking(service: str, path: str, **more: Any) -> requests.Response:
        return requests.request(
            more.pop("method", "GET"),
            f"http://127.0.0.1:{port}/x/hub{path}",
            headers={"Authorization": f"token {service * 8}"},
            timeout=60,
            **more,
        )

    def answers() -> bool:
        try:
            return asking("nobody", "/api/").ok
        except requests.RequestException:
            return False

    with (folder / "log").open("w") as log:
        hub = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", "config.py"],
            cwd=folder,
            env=os.environ | {"DOCKER_HOST": f"unix://{folder}/none.sock"},
            stdout=log,
            stderr=log,
        )
        try:
            wait_until(
                lambda: answers() or hub.poll() is not None,
                what="the hub answers",
                within_s=60,
            )
            assert hub.poll() is None, (folder / "log").read_text()[-4000:]
            yield asking
        finally:
            hub.terminate()
            hub.wait(60)


def test_a_service_with_the_scope_sees_also_what_is_not_known(ask: Ask) -> None:
    """The first who asks after the hub's start; the engine does not answer here."""
    reply = ask("graphs", "/api/gpus")
    assert reply.status_code == 200
    assert reply.json().keys() == KEYS
    assert reply.json()["is_ready"] is False
    assert reply.json()["trouble"]
    metrics = ask("graphs", "/metrics")
    assert "gpuspawner_ready 0.0" in metrics.text.splitlines()


def test_a_service_without_the_scope_sees_nothing(ask: Ask) -> None:
    """Neither does the one that may only look change anything."""
    assert ask("nobody", "/api/gpus").status_code == 403
    word = {"state": "quarantined", "note": "x"}
    path = "/api/gpus/GPU-0"
    assert ask("graphs", path, method="POST", json=word).status_code == 403
    assert ask("keeper", path, method="POST", json=word).status_code == 404
    assert ask("keeper", "/api/gpus").status_code == 200  # managing includes seeing


def test_only_who_may_end_servers_tells_why_they_end(ask: Ask) -> None:
    """Whoever manages GPUs may not, nor the other way round."""
    path = "/api/leases/ls_1/ending"
    told = {"reason": "idle", "sentence": "Your last server stopped: it was idle."}
    for service in ("nobody", "graphs", "keeper"):
        assert ask(service, path, method="POST", json=told).status_code == 403
    assert ask("steward", path, method="POST", json=told).status_code == 404
    reply = ask("steward", path, method="POST", json={"reason": "idle"})
    assert reply.status_code == 400
    assert reply.json()["message"] == window.HOW_TO_END
    assert ask("steward", "/api/gpus").status_code == 403


def test_a_window_for_another_class_says_what_to_change(ask: Ask) -> None:
    """A host made for the wrong class would take every server for an orphan."""
    reply = ask("graphs", "/api/for-another")
    assert reply.status_code == 503
    assert "started by TheirSpawner" in reply.json()["message"]


def test_the_page_needs_nothing_from_elsewhere() -> None:
    """No address of another host, no file: it works behind any firewall."""
    text = window.PAGE.read_text()
    assert not re.search(r"https?://|\bsrc=|\bimport\b|innerHTML|insertAdjacent", text)
    assert "| safe" not in text
