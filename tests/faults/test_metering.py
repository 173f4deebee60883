"""What servers cost on a real engine, to the second, whatever dies meanwhile.

Seconds are those between the moment the ledger let a meter run and the moment at which
the engine says the container ended. Nothing here is computed by the product's code.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import docker
import pytest
from testbed.engine import wait_until
from testbed.gpu import state as states
from testbed.gpu.state import GIB
from testbed.hub import Lease, RefusedError, User, crowd, together
from testbed.hub_process import HubProcess, MakeHub, own
from testbed.postgres import Postgres
from testbed.tokens import (
    SEEN_WITHIN_S,
    TOKEN,
    Deaths,
    LeaseRow,
    Tokens,
    charge,
    deaths,
)

pytestmark = pytest.mark.docker

TYPES = {  # size -> type of its slot, and tokens per hour: none is whole per second
    "a100": ("NVIDIA A100-PCIE-40GB (simulated)", "7200.000001"),
    "a6000": ("NVIDIA RTX A6000 (simulated)", "3599.999999"),
    "3090": ("NVIDIA GeForce RTX 3090 (simulated)", "0.999999"),
    "v100": ("Tesla V100-PCIE-16GB (simulated)", "1234.567"),
}
OFFERS = [
    {"name": "cpu", "title": "CPU", "n_gpus": 0, "memory_bytes": GIB, "n_cpus": 1},
    *(
        {
            "name": name,
            "title": name,
            "n_gpus": 1,
            "gpu_type": type_,
            "memory_bytes": GIB,
            "n_cpus": 1,
        }
        for name, (type_, _) in TYPES.items()
    ),
]
# A server of somebody with this name runs and never answers.
SILENT = "silent"
CONFIGURATION = f"""
c.GPUDockerSpawner.offers = {OFFERS!r}

def keep_silent(spawner):
    if spawner.user.name.startswith("{SILENT}"):
        spawner.cmd = ["sleep", "600"]
        spawner.args = []
        spawner.start_timeout, spawner.http_timeout = 6, 4

c.Spawner.pre_spawn_hook = keep_silent
"""
TOKENS = Tokens(
    prices={"cpu": "0"} | dict(TYPES.values()),
    welcome="0",
    hold_s=60,
    warn_s=(50,),
    stop_lead_s=29,
)
SILENT_ENGINE_S = 6
POOR = ("both", "poor")
# How long after an end the engine may tell of it, while it is busy.
LATE_S = 1.0


@pytest.fixture(scope="module")
def make_metered(make_hub: MakeHub) -> MakeHub:
    """Makes hubs with a ledger, each with a GPU of each type."""

    def make(name: str, **how: Any) -> AbstractContextManager[HubProcess]:
        gpus = own(states.mixed()[: len(TYPES)])
        return make_hub(name, gpus=gpus, configuration=CONFIGURATION, **how)

    return make


@pytest.fixture(scope="module")
def hub(make_metered: MakeHub) -> Iterator[HubProcess]:
    """A hub with its ledger in a file."""
    with make_metered("metering", port=8060, tokens=TOKENS) as running:
        yield running


@contextmanager
def payers(hub: HubProcess) -> Iterator[Callable[[str], User]]:
    """Makes users with a thousand tokens; those named in POOR get none."""
    with crowd(hub) as make:

        def made(name: str) -> User:
            user = make(name)
            if name not in POOR:
                hub.ledger.grant(user, 1000 * TOKEN)
            return user

        yield made


@pytest.fixture
def people(hub: HubProcess) -> Iterator[Callable[[str], User]]:
    """Makes users for one test."""
    with payers(hub) as make:
        yield make


@pytest.fixture
def ends(engine: docker.DockerClient) -> Iterator[Deaths]:
    """When containers ended."""
    with deaths(engine) as seen:
        yield seen


def per_hour(size: str) -> int:
    """Microtokens per hour."""
    whole, _, part = TYPES[size][1].partition(".")
    return int(whole) * TOKEN + int(part.ljust(6, "0"))


def check(row: LeaseRow, size: str, died: float) -> None:
    """Is the lease charged for the seconds it ran, at the price of its size?"""
    assert row.per_hour == per_hour(size), row
    ran_s = died - row.ready_s
    assert int(ran_s - LATE_S) <= row.settled_s <= int(ran_s), (row, ran_s)
    assert row.charged == charge(row.per_hour, row.settled_s), row


def paid(hub: HubProcess, user: User) -> int:
    """What the user's closed leases cost, as the statement's lines add up."""
    lines = hub.ledger.statement(user)
    left = sum(line["microtokens"] for line in lines)
    assert hub.ledger.api(user, "GET", "/me").json()["available"] == left, lines
    assert hub.ledger.balance(user) == left, lines
    granted = sum(line["microtokens"] for line in lines if line["code"] == "grant")
    return int(granted - left)


def tokens_for(size: str, seconds: int) -> int:
    """Microtokens that are just enough for so many seconds of a size."""
    amount = charge(per_hour(size), seconds)
    assert charge(per_hour(size), seconds - 1) < amount
    return amount


# ------------------------------------------------------------------------ to the second


def test_statements_are_rate_times_seconds_whatever_died(
    hub: HubProcess, people: Callable[[str], User], ends: Deaths
) -> None:
    """One killed, one ended with the hub dead, one removed by hand, one stopped."""
    users = {size: people(f"runs-{size}-") for size in TYPES}
    began = time.time()
    started = together(partial(user.start, size) for size, user in users.items())
    assert all(isinstance(lease, Lease) for lease in started), started
    ids = {size: lease.container for size, lease in zip(users, started, strict=True)}
    rows = {size: hub.ledger.wait_ready(user) for size, user in users.items()}
    seen = time.time()
    assert all(began < row.ready_s < seen for row in rows.values()), (began, rows, seen)

    users["a100"].container().kill()
    died = {"a100": ends.of(ids["a100"])}
    check(hub.ledger.wait_closed(users["a100"]), "a100", died["a100"])

    a6000, dead = users["a6000"].container(), time.monotonic()
    hub.crash()
    a6000.kill()
    died["a6000"] = ends.of(ids["a6000"])
    wait_until(lambda: time.monotonic() > dead + 4, what="a while", within_s=10)
    assert hub.ledger.lease(users["a6000"]).closed_at == 0
    hub.begin()
    hub.ledger.wait_closed(users["a6000"])

    users["3090"].container().remove(force=True)
    died["3090"] = ends.of(ids["3090"])
    hub.ledger.wait_closed(users["3090"])

    wait_until(
        lambda: hub.ledger.lease(users["v100"]).settled_s,
        what="a slice is settled while it runs",
        within_s=TOKENS.hold_s,
    )
    users["v100"].stop()
    died["v100"] = ends.of(ids["v100"])
    for size, user in users.items():
        row = hub.ledger.wait_closed(user)
        check(row, size, died[size])
        # One ready time from beginning to end, over the restart, too.
        assert row.ready_at == rows[size].ready_at
        assert paid(hub, user) == row.charged
    assert hub.ledger.held() == 0


def test_a_free_server_costs_nothing(
    hub: HubProcess, people: Callable[[str], User]
) -> None:
    """Its time is counted all the same."""
    user = people("free")
    user.start("cpu")
    hub.ledger.wait_ready(user)
    user.stop()
    row = hub.ledger.wait_closed(user)
    assert (row.per_hour, row.charged) == (0, 0)
    assert paid(hub, user) == 0


# -------------------------------------------------------------------------- not charged


def test_a_start_that_fails_costs_nothing(
    hub: HubProcess, people: Callable[[str], User], ends: Deaths
) -> None:
    """The engine refuses to start it, or it never answers: what was held is back."""
    refused, silent = people("refused"), people(SILENT)
    with (
        hub.proxy.fail("POST", r"^/containers/[^/]+/start", times=1),
        pytest.raises(RefusedError),
    ):
        refused.start("a100")
    with pytest.raises(RefusedError):
        silent.start("a6000")
    for user in (refused, silent):
        row = hub.ledger.wait_closed(user)
        assert (row.charged, row.settled_s) == (0, 0)
        assert paid(hub, user) == 0
        lines = hub.ledger.statement(user)
        assert [line["microtokens"] for line in lines] == [1000 * TOKEN, 0]
    assert hub.ledger.held() == 0


def test_a_hub_that_dies_during_a_start_charges_nothing_for_it(
    hub: HubProcess, people: Callable[[str], User], ends: Deaths
) -> None:
    """And a container that is removed while the hub is dead is paid to its end."""
    begun, removed = people("begun"), people("removed")
    lease = removed.start("v100")
    hub.ledger.wait_ready(removed)
    with hub.proxy.hold("POST", r"^/containers/[^/]+/start", when="after") as held:
        begun.request_server_in_background({"offer": "a100"})
        held.reached()
        hub.crash()
    removed.container().remove(force=True)
    died = ends.of(lease.container)
    hub.begin()
    row = hub.ledger.wait_closed(begun)
    assert (row.ready_at, row.charged) == (0, 0)
    assert paid(hub, begun) == 0
    check(hub.ledger.wait_closed(removed), "v100", died)
    wait_until(begun.is_idle, what="nothing is left of it", within_s=SEEN_WITHIN_S)
    assert hub.ledger.held() == 0


def test_what_is_after_a_broken_gpu_is_not_charged(
    hub: HubProcess, people: Callable[[str], User], ends: Deaths
) -> None:
    """A GPU falls off the bus: its server ends, and is paid up to then at most."""
    user = people("unlucky")
    lease = user.start("a100")
    row = hub.ledger.wait_ready(user)
    wait_until(lambda: time.time() > row.ready_s + 3, what="a while", within_s=10)
    with hub.change() as gpus:
        gpus.lose(lease.devices[0])
    lost = time.time()
    row = hub.ledger.wait_closed(user)
    died = ends.of(lease.container)
    try:
        assert row.charged == charge(per_hour("a100"), row.settled_s)
        # Between two readings of the GPUs nobody knows; see sample_interval.
        assert lost - 1 <= row.ready_s + row.settled_s + 1 <= min(died, lost + 4) + 1
        assert paid(hub, user) == row.charged
    finally:
        with hub.change() as gpus:
            gpus.restore(lease.devices[0])
        hub.forget_faults()


# -------------------------------------------------------------------- not enough tokens


def test_two_servers_cannot_spend_the_same_tokens(
    hub: HubProcess, people: Callable[[str], User], ends: Deaths
) -> None:
    """Both start at once, and the tokens are enough for either, not for both."""
    user = people("both")
    hub.ledger.grant(user, tokens_for("a100", TOKENS.hold_s) + TOKEN)
    sizes = ("a100", "a6000")
    got = together(partial(user.start, size, server=size) for size in sizes)
    (lease,) = [one for one in got if isinstance(one, Lease)]
    (refused,) = [one for one in got if isinstance(one, RefusedError)]
    assert "token" in refused.message
    assert hub.ledger.held() == tokens_for(lease.server, TOKENS.hold_s)
    user.stop(lease.server)
    row = hub.ledger.wait_closed(user, lease.server)
    check(row, lease.server, ends.of(lease.container))
    assert paid(hub, user) == row.charged


def test_who_runs_out_is_warned_then_stopped_then_works_on_a_cpu(
    hub: HubProcess, people: Callable[[str], User], ends: Deaths
) -> None:
    """The reason stands at the form, and no more is charged than there was."""
    user = people("poor")
    covered_s = TOKENS.hold_s + 1
    hub.ledger.grant(user, tokens_for("a100", covered_s))
    lease = user.start("a100")
    wait_until(
        lambda: "token" in user.note(), what="a note warns", within_s=SEEN_WITHIN_S
    )
    assert lease.container not in ends.at
    died = ends.of(lease.container, within_s=covered_s)
    row = hub.ledger.wait_closed(user)
    check(row, "a100", died)
    left_s = covered_s - row.settled_s
    # At the moment of the stop, less what the stop itself took.
    assert 0 <= left_s <= TOKENS.stop_lead_s
    assert paid(hub, user) == row.charged
    wait_until(user.is_idle, what="nothing is left of it", within_s=SEEN_WITHIN_S)
    assert "tokens are used up" in user.page("/hub/spawn")
    with pytest.raises(RefusedError, match="token"):
        user.start("a100")
    user.start("cpu")
    assert hub.ledger.wait_ready(user).per_hour == 0


# ------------------------------------------------------------- nobody knows for a while


def test_while_the_engine_is_silent_nothing_ends(
    hub: HubProcess, people: Callable[[str], User], ends: Deaths
) -> None:
    """What happened meanwhile is settled afterwards, from the engine's own times."""
    stays, goes = people("stays"), people("goes")
    started = {
        user: user.start(size) for user, size in ((stays, "a100"), (goes, "v100"))
    }
    for user in started:
        hub.ledger.wait_ready(user)
    with hub.proxy.hang(".*", ".*"):
        goes.container().kill()
        died = ends.of(started[goes].container)
        silent = time.monotonic()
        wait_until(
            lambda: time.monotonic() > silent + SILENT_ENGINE_S,
            what="a while",
            within_s=2 * SILENT_ENGINE_S,
        )
        for user in started:
            assert hub.ledger.lease(user).closed_at == 0
            assert "" in user.listed()
    check(hub.ledger.wait_closed(goes), "v100", died)
    assert stays.answers()
    stays.stop()
    row = hub.ledger.wait_closed(stays)
    check(row, "a100", ends.of(started[stays].container))


# ----------------------------------------------------------------------- after all that


def test_the_ledger_adds_up(hub: HubProcess) -> None:
    """Everything is recomputed from its postings, by the command an admin has."""
    verify(hub)


@pytest.mark.postgres
def test_on_postgresql_it_is_the_same(
    make_metered: MakeHub, postgres: Postgres, ends: Deaths
) -> None:
    """A hub with its ledger there dies while its servers end; to the second again."""
    with (
        postgres.database() as url,
        make_metered("postgres", port=8064, tokens=replace(TOKENS, url=url)) as hub,
        payers(hub) as people,
    ):
        users = {size: people(size) for size in ("a100", "v100")}
        started = {size: user.start(size) for size, user in users.items()}
        for user in users.values():
            hub.ledger.wait_ready(user)
        hub.crash()
        users["a100"].container().kill()
        users["v100"].container().remove(force=True)
        died = {size: ends.of(lease.container) for size, lease in started.items()}
        hub.begin()
        for size, user in users.items():
            row = hub.ledger.wait_closed(user)
            check(row, size, died[size])
            assert paid(hub, user) == row.charged
        assert hub.ledger.held() == 0
        verify(hub)


def verify(hub: HubProcess) -> None:
    """Let an admin's command recompute everything; fails if something is wrong."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / "torchroom"), "ledger", "verify"],
        env=hub.process_environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
