"""What JupyterHub calls for a server that runs: the form, poll and stop."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpuspawner import exits
from gpuspawner import spawner as spawner_module
from gpuspawner.configuration import ConfiguredSpawner
from gpuspawner.model import Lease, Limits, Offer, SlotRequest, Terms
from gpuspawner.pacing import Pace
from gpuspawner.ports import PlaceholderMeter
from gpuspawner.spawner import NO_PRICES, GPUDockerSpawner
from tornado import web
from traitlets import default
from unit.metered import Metered, until
from unit.meters import TOKEN, FakeMeter

GIB = 2**30
LIMITS = Limits(GIB, GIB, 2.0, 100)
OFFERS = (
    Offer("cpu", "CPU only", SlotRequest(0), LIMITS),
    Offer("1-gpu", "1 GPU", SlotRequest(1), LIMITS),
    Offer("2-gpu", "2 GPUs", SlotRequest(2), LIMITS),
)


class Spawner(GPUDockerSpawner):
    """A spawner on a machine in memory."""

    machine: Metered
    object_name = "test-ann"

    @property
    def host(self) -> Any:
        return self.machine.host

    async def my_offers(self) -> Any:
        return OFFERS


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Metered]:
    """Two GPUs, read once."""
    made = Metered(tmp_path)
    await made.settle()
    yield made
    made.end()


def spawner_of(machine: Metered, lease: Lease | None = None) -> Spawner:
    """Ann's spawner, after the hub's start or her server's."""
    found = Spawner()
    found.machine = machine
    found.user = SimpleNamespace(name="ann", escaped_name="ann", groups=[])
    found.db = SimpleNamespace(commit=lambda: None)
    found.orm_spawner = SimpleNamespace(user_options={}, name="", server=None)
    found._waiting_for_response = False
    if lease:
        found.lease_id = lease.id
        found.object_id = f"id-{lease.id}"
        found.user_options = {"offer": "1-gpu", "course": "cv"}
        found._choice = found.user_options
    return found


def test_the_limits_of_starts_are_those_that_were_configured(tmp_path: Path) -> None:
    class Limited(GPUDockerSpawner):
        hub_id, state_dir = "test", str(tmp_path)
        start_limit, unanswered_limit = 2, 1

    policy = Limited().host.policy
    assert (policy.starts, policy.unanswered) == (Pace(2, 600), Pace(1, 1800))


# -- the form ------------------------------------------------------------------------


async def test_every_offer_shows_its_price(machine: Metered) -> None:
    html = await spawner_of(machine)._render_form()
    assert "2 CPUs; free<" in html
    assert "2 CPUs; 36 tokens per hour; 2 of 2 free now<" in html
    assert "2 CPUs; 72 tokens per hour; 2 of 2 free now<" in html
    assert "Pay with" not in html


async def test_what_cannot_be_paid_says_so_and_cpu_can_be_chosen(
    machine: Metered,
) -> None:
    machine.meter.wallets["ann"] = 6 * TOKEN
    html = await spawner_of(machine)._render_form()
    assert html.count("disabled") == 1
    assert "72 tokens per hour; Your tokens do not suffice for this server.<" in html


async def test_a_course_that_can_pay_opens_what_the_user_cannot(
    machine: Metered,
) -> None:
    """And the user is asked who pays."""
    machine.meter.wallets |= {"ann": 0, "cv": 100 * TOKEN}
    machine.meter.titles = {"cv": "Computer vision", "nlp": "Language"}
    spawner = spawner_of(machine)
    assert (await spawner._render_form()).count("disabled") == 2
    spawner.user.groups = [SimpleNamespace(name="cv")]
    html = await spawner._render_form()
    assert "disabled" not in html
    assert "Computer vision" in html
    assert "Language" not in html


@pytest.mark.parametrize("method", ["courses", "quote"])
async def test_a_ledger_that_does_not_answer_is_a_notice_on_the_form(
    machine: Metered, method: str
) -> None:
    machine.meter.fail(method)
    html = await spawner_of(machine)._render_form()
    assert NO_PRICES in html
    assert "per hour" not in html


async def test_a_hub_without_a_ledger_shows_no_prices(tmp_path: Path) -> None:
    machine = Metered(tmp_path)
    machine.meter = PlaceholderMeter()  # type: ignore[assignment]
    machine.restart()
    await machine.settle()
    html = await spawner_of(machine)._render_form()
    assert "per hour" not in html
    assert "free<" not in html
    machine.end()


# -- ends ----------------------------------------------------------------------------


async def test_poll_settles_a_server_that_ended_until_it_did(machine: Metered) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(90)
    machine.exit_now(lease, 3)
    machine.clocks.pass_s(100)
    spawner = spawner_of(machine, lease)
    assert "exit code 3" in str(await spawner.poll())
    assert machine.paid_s(lease) == 90
    assert machine.reason(lease) == "crashed"
    assert spawner.lease_id == ""


async def test_poll_settles_a_server_that_was_removed_by_hand(
    machine: Metered,
) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(90)
    machine.remove_by_hand(lease)
    machine.clocks.pass_s(100)
    assert await spawner_of(machine, lease).poll() == exits.REMOVED.sentence
    await until(lambda: machine.reason(lease) == "removed")
    assert machine.paid_s(lease) == 90


async def test_after_the_tokens_ran_out_the_next_start_is_a_cpu_server(
    machine: Metered,
) -> None:
    """The choice is forgotten, and the form offers what opens the files."""
    lease = await machine.running()
    machine.clocks.pass_s(90)
    why = exits.out_of_tokens("your tokens are used up", "")
    machine.host.evict(lease.id, why)
    spawner = spawner_of(machine, lease)
    assert await spawner.poll() == why.sentence
    assert spawner.user_options == {}
    assert spawner._choice is None
    html = await spawner._render_form()
    assert why.sentence in html
    assert 'value="cpu" checked' in html
    await until(lambda: machine.reason(lease) == exits.OUT_OF_TOKENS)
    assert machine.paid_s(lease) == 90


async def test_a_stop_is_charged_until_it(machine: Metered) -> None:
    lease = await machine.running()
    machine.clocks.pass_s(90)
    await spawner_of(machine, lease).stop()
    assert machine.paid_s(lease) == 90


WHY = exits.Exit("idle", "Your last server stopped: its GPU was idle.", "")


async def test_a_stop_that_was_announced_tells_its_reason(machine: Metered) -> None:
    """To the ledger, on the form, and in the state that JupyterHub keeps."""
    lease = await machine.running()
    machine.clocks.pass_s(90)
    spawner = spawner_of(machine, lease)
    machine.host.announced.tell(lease.id, WHY, time.monotonic())
    await spawner.stop()
    spawner.clear_state()
    assert machine.paid_s(lease) == 90
    assert machine.reason(lease) == "idle"
    assert WHY.sentence in await spawner._render_form()
    kept = spawner.get_state()
    assert kept["last_exit"]["reason"] == "idle"
    assert "terms" not in kept
    again = spawner_of(machine)
    again.load_state(kept)
    assert WHY.sentence in await again._render_form()


async def test_a_users_own_stop_shows_no_reason(machine: Metered) -> None:
    """Nor does one for which a reason was told too long ago."""
    lease = await machine.running()
    spawner = spawner_of(machine, lease)
    machine.host.announced.tell(lease.id, WHY, time.monotonic() - 31)
    await spawner.stop()
    assert spawner.last_exit == {}
    assert machine.reason(lease) == "stopped"


async def test_a_server_that_never_answered_did_not_stop_for_what_was_announced(
    machine: Metered,
) -> None:
    """Its user reads nothing else than what the ledger was told."""
    lease = await machine.running()
    spawner = spawner_of(machine, lease)
    spawner._waiting_for_response = True
    machine.host.announced.tell(lease.id, WHY, time.monotonic())
    await spawner.stop()
    assert spawner.last_exit == {}
    assert machine.reason(lease) == "not_started"


async def test_a_server_that_ends_for_a_broken_gpu_stopped_for_nothing_else(
    machine: Metered,
) -> None:
    """Whatever was announced when that was decided already."""
    lease = await machine.running()
    spawner = spawner_of(machine, lease)
    broke = exits.Exit("gpu_broke", "Your last server stopped: its GPU broke.", "")
    machine.host.metering.decide(lease.id, broke)
    machine.host.announced.tell(lease.id, WHY, time.monotonic())
    await spawner.stop()
    assert spawner.last_exit == asdict(broke)
    assert machine.reason(lease) == "gpu_broke"


async def test_a_start_that_fails_keeps_what_its_user_has_not_read_yet(
    machine: Metered,
) -> None:
    """The reason for the server before goes when the next one answers."""
    spawner = spawner_of(machine)
    spawner.last_exit = asdict(WHY)
    await spawner.stop()  # JupyterHub stops what it takes for running
    assert WHY.sentence in await spawner._render_form()


async def test_an_announced_stop_that_the_engine_holds_up_keeps_its_reason(
    machine: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JupyterHub is told that it failed; the hub goes on, and asks later why."""
    monkeypatch.setattr(spawner_module, "STOP_DEADLINE_S", -1.0)
    lease = await machine.running()
    spawner = spawner_of(machine, lease)
    machine.host.announced.tell(lease.id, WHY, time.monotonic())
    machine.engine.n_failing = 1
    with pytest.raises(web.HTTPError):
        await spawner.stop()
    assert await spawner.poll() == WHY.sentence
    await until(lambda: machine.reason(lease) == "idle")


async def test_what_a_server_was_started_as_outlives_the_hub(machine: Metered) -> None:
    """Its size, its course, and when it answered; an older hub kept nothing of it."""
    lease = await machine.running()
    at = datetime(2026, 3, 2, 9, tzinfo=UTC)
    for terms in (Terms("1-gpu", "cv", at), Terms("1-gpu")):
        machine.host.terms[lease.id] = terms
        kept = json.loads(json.dumps(spawner_of(machine, lease).get_state()))
        machine.host.terms.clear()
        spawner_of(machine).load_state(kept)
        assert machine.host.terms == {lease.id: terms}
    del kept["terms"]
    spawner_of(machine).load_state(kept)
    assert machine.host.terms == {lease.id: Terms()}
    await machine.stop(lease)
    assert machine.host.terms == {}


async def test_a_server_that_jupyterhub_gave_up_waiting_for_costs_nothing(
    machine: Metered,
) -> None:
    """It answered us, but never its user."""
    lease = await machine.running()
    machine.clocks.pass_s(90)
    spawner = spawner_of(machine, lease)
    spawner._waiting_for_response = True
    await spawner.stop()
    assert machine.meter.charged("ann") == 0
    assert machine.reason(lease) == "not_started"


async def test_a_stop_after_a_start_was_cancelled_finds_nothing_to_end(
    machine: Metered,
) -> None:
    """JupyterHub stops what it takes for running."""
    await spawner_of(machine).stop()
    assert machine.meter.named("end") == []


# -- one meter for all -----------------------------------------------------------------


def test_a_site_gives_its_meter_in_two_lines_and_it_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every server of the hub is metered by the very same object."""
    meter = FakeMeter()

    class Metering(ConfiguredSpawner):
        @default("meter")
        def _meter(self) -> FakeMeter:
            return meter

    async def go() -> None:
        made = [Metering(hub_id="x", state_dir=str(tmp_path)) for _ in range(2)]
        assert [spawner.meter for spawner in made] == [meter, meter]
        assert all(spawner.host.metering._meter is meter for spawner in made)
        assert made[0].host is made[1].host

    asyncio.run(go())


def test_a_hub_that_gives_none_meters_nothing(tmp_path: Path) -> None:
    class Plain(ConfiguredSpawner):
        _host = None

    async def go() -> None:
        spawner = Plain(hub_id="x", state_dir=str(tmp_path))
        meter = spawner.host.metering._meter
        assert isinstance(meter, PlaceholderMeter)
        assert await meter.open_leases() == {}

    asyncio.run(go())
