"""Prometheus reads the pool: names, units, what is unknown is absent."""

import logging
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest
from gpuspawner import counting, metrics
from gpuspawner.admission import Admission
from gpuspawner.faults import Health
from gpuspawner.health import HealthBook
from gpuspawner.host import Host
from gpuspawner.idleness import LeaseUse, Observed
from gpuspawner.looking import cpu_s
from gpuspawner.model import Device, Owner, SlotRequest
from gpuspawner.pool import Pool
from gpuspawner.recovery import Plan
from gpuspawner.sample import GpuProcess, Sample, Sweep
from gpuspawner.signals import Use
from gpuspawner.tickets import Ticket
from gpuspawner.view import Facts, show
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

GIB = 2**30
NOW = datetime(2026, 3, 2, 9, tzinfo=UTC)
DEVICES = [Device(i, f"GPU-{i:08x}", "A100", 40 * GIB, i) for i in range(2)]
ANN = Owner('an"n\\\n', "lab")
UNITS = (
    "_bytes", "_seconds", "_ratio", "_celsius", "_watts", "_total", "_info", "_limit",
    "_length", "_health", "_processes", "_slots", "_leases", "_boots", "_ready",
    "_trouble",
)  # fmt: skip


def busy_facts() -> Facts:
    """One GPU leased and read, one broken; one server waits, one boots."""
    pool = Pool()
    pool.see(DEVICES, NOW)
    pool.apply(Plan(), NOW)
    pool.cleaned(list(pool.slots))
    book = HealthBook()
    sample = Sample(
        DEVICES[0].uuid,
        NOW,
        utilisation=0.25,
        memory_used_bytes=GIB,
        processes=(GpuProcess(1, GIB),),
        temperature_c=61,
        power_w=250.5,
    )
    book.see(Sweep({d.uuid: Sample(d.uuid, NOW) for d in DEVICES}), now=NOW,
             boot_id="b", holders={})  # fmt: skip
    uuid = DEVICES[1].uuid
    book.override(uuid, Health.QUARANTINED, "loud", admin="eve", now=NOW)
    pool.judge({uuid: "loud"})
    pool.acquire("ls_1", ANN, SlotRequest(1), NOW)
    pool.join(Ticket("ls_2", Owner("bob", ""), SlotRequest(1), NOW))
    admission = Admission(1)
    admission.ask("ls_1", NOW)
    return Facts(
        pool, book, 10.0, pool.places(NOW), Sweep({sample.uuid: sample}, took_s=0.02),
        round_s=0.03, reader_cpu_s=1.5, admission=admission,
    )  # fmt: skip


class Scrape:
    """What Prometheus reads: a parsed scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.text = generate_latest(registry).decode()
        self.families = list(text_string_to_metric_families(self.text))

    def all(self, name: str) -> list[tuple[dict[str, str], float]]:
        return [
            (sample.labels, sample.value)
            for family in self.families
            for sample in family.samples
            if sample.name == f"gpuspawner_{name}"
        ]

    def value(self, name: str, **labels: str) -> float:
        found = [v for have, v in self.all(name) if labels.items() <= have.items()]
        assert len(found) == 1, f"{name} {labels}: {self.all(name)}"
        return found[0]


class Static:
    """A collector of metrics that are there."""

    def __init__(self, found: list[Metric]) -> None:
        self.found = found

    def collect(self) -> list[Metric]:
        return self.found


def scrape(facts: Facts, now: datetime = NOW) -> Scrape:
    registry = CollectorRegistry()
    registry.register(cast("Any", Static(list(metrics.families(show(facts, now))))))
    return Scrape(registry)


@pytest.fixture
def seen() -> Scrape:
    return scrape(busy_facts())


def test_a_lease_joins_its_gpu_by_uuid(seen: Scrape) -> None:
    """Whatever a user is called, the labels are as they were."""
    assert seen.all("lease_info") == [
        (
            {
                "uuid": DEVICES[0].uuid,
                "user": ANN.user,
                "server": "lab",
                "lease": "ls_1",
                "slot": DEVICES[0].uuid,
                "kind": "device",
            },
            1.0,
        )
    ]


@pytest.mark.parametrize(("state", "idle_s"), [
    (Use.IDLE, [90.0]), (Use.BUSY, [0.0]), (Use.UNKNOWN, []),
])  # fmt: skip
def test_how_long_a_server_is_idle(state: Use, idle_s: list[float]) -> None:
    """A busy one is not idle at all; of an unknown one nothing is said."""
    since = NOW - timedelta(seconds=90)
    use = LeaseUse(state, since, since if state is Use.IDLE else None, "")
    facts = replace(busy_facts(), observed=Observed(NOW, {"ls_1": use}))
    found = scrape(facts).all("lease_idle_seconds")
    assert [value for _, value in found] == idle_s
    who = {"user": ANN.user, "server": "lab", "lease": "ls_1"}
    assert all(labels == who for labels, _ in found)


def test_slots_are_counted_by_state_and_type(seen: Scrape) -> None:
    """States that nothing is in are there at 0, so that an alert can be written."""
    counts = {labels["state"]: n for labels, n in seen.all("slots")}
    assert counts == {"free": 0, "leased": 1, "returned": 0, "unfit": 1, "foreign": 0}
    assert {labels["type"] for labels, _ in seen.all("slots")} == {"A100"}


def test_a_device_is_in_exactly_one_state_of_health(seen: Scrape) -> None:
    """1 for its state, 0 for the others."""
    expected = (Health.HEALTHY, Health.QUARANTINED)
    for device, state in zip(DEVICES, expected, strict=True):
        states = {
            labels["state"]: value
            for labels, value in seen.all("device_health")
            if labels["uuid"] == device.uuid
        }
        assert states == {s.value: float(s is state) for s in Health}


def test_readings_come_in_base_units(seen: Scrape) -> None:
    """Shares from 0 to 1, bytes, degrees Celsius, watts, seconds."""
    uuid = DEVICES[0].uuid
    assert seen.value("device_utilisation_ratio", uuid=uuid) == 0.25
    assert seen.value("device_memory_used_bytes", uuid=uuid) == GIB
    assert seen.value("device_memory_bytes", uuid=uuid) == 40 * GIB
    assert seen.value("device_temperature_celsius", uuid=uuid) == 61
    assert seen.value("device_power_watts", uuid=uuid) == 250.5
    assert seen.value("device_processes", uuid=uuid) == 1
    assert seen.value("sweep_duration_seconds") == 0.02
    assert seen.value("round_duration_seconds") == 0.03
    assert seen.value("sampling_interval_seconds") == 10
    assert seen.value("reader_cpu_seconds_total") == 1.5


def test_what_is_unknown_is_absent(seen: Scrape) -> None:
    """No value is made up for the GPU that was not read."""
    uuids = {labels["uuid"] for labels, _ in seen.all("device_utilisation_ratio")}
    assert uuids == {DEVICES[0].uuid}
    facts = replace(busy_facts(), sweep=None, round_s=None, reader_cpu_s=None,
                    admission=None, places={})  # fmt: skip
    empty = scrape(facts)
    for name in ("device_power_watts", "sample_age_seconds", "boots_limit",
                 "sweep_duration_seconds", "reader_cpu_seconds_total",
                 "queue_expected_wait_seconds"):  # fmt: skip
        assert empty.all(name) == []
        assert f"# HELP gpuspawner_{name}" in empty.text


def test_a_reading_that_is_old_says_nothing_about_now() -> None:
    """After three intervals without a new one it is absent; its age is not."""
    later = NOW + timedelta(seconds=31)
    old = scrape(busy_facts(), later)
    assert old.all("device_utilisation_ratio") == []
    assert old.value("sample_age_seconds") == 31
    assert len(old.all("device_memory_bytes")) == 2


def test_queue_and_boots_are_counted(seen: Scrape) -> None:
    """By the type asked for; types nobody waits for are there at 0."""
    assert seen.value("queue_length", type="any") == 1
    assert seen.value("queue_length", type="A100") == 0
    assert seen.value("queue_expected_wait_seconds", type="any") > 0
    assert seen.value("boots", state="booting") == 1
    assert seen.value("boots", state="waiting") == 0
    assert seen.value("boots_limit") == 2
    assert seen.value("leases", state="starting") == 1
    assert seen.value("leases", state="active") == 0
    assert (seen.value("ready"), seen.value("trouble")) == (1, 0)


def test_names_follow_the_rules_of_prometheus(seen: Scrape) -> None:
    """One prefix, base units, counters end in _total."""
    for family in seen.families:
        assert family.name.startswith("gpuspawner_")
        assert family.documentation
        for sample in family.samples:
            assert sample.name.endswith(UNITS), sample.name
            assert (family.type == "counter") == sample.name.endswith("_total")


# -- at a scrape ---------------------------------------------------------------------


def host_of(facts: Facts, alarms: list[tuple[datetime, str]]) -> Host:
    """As much of a host as is read, with what these facts say."""
    host = SimpleNamespace(
        pool=facts.pool,
        book=facts.book,
        policy=SimpleNamespace(sample_every_s=facts.interval_s),
        room=SimpleNamespace(places=facts.places),
        rounds=SimpleNamespace(
            last=facts.sweep,
            took_s=facts.round_s,
            alarms=alarms,
            observed=facts.observed,
        ),
        probe=SimpleNamespace(absence=None),
        caps=facts.caps,
        terms=facts.terms,
        metering=SimpleNamespace(tokens_end=facts.tokens_end),
        doorway=SimpleNamespace(admission=facts.admission),
    )
    return cast("Host", host)


def test_alarms_are_counted_once_each_also_when_old_ones_are_dropped() -> None:
    """A counter never goes back."""
    alarms = [(NOW, "one"), (NOW + timedelta(seconds=1), "two")]
    host = host_of(busy_facts(), alarms)
    registry = CollectorRegistry()
    metrics.register(lambda: host, registry)
    assert Scrape(registry).value("alarms_total") == 2
    assert Scrape(registry).value("alarms_total") == 2
    alarms[:] = [alarms[1], (NOW + timedelta(seconds=2), "three")]
    assert Scrape(registry).value("alarms_total") == 3


def test_a_scrape_before_the_hub_knows_its_machine_is_empty(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It does not fail, not even in the log."""
    registry = CollectorRegistry()
    metrics.register(lambda: None, registry)
    assert Scrape(registry).families == []
    assert not caplog.records


def test_a_fault_of_ours_leaves_the_other_metrics_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """JupyterHub's metrics are served by the same scrape."""

    def broken() -> Host:
        raise RuntimeError("a bug")

    registry = CollectorRegistry()
    metrics.register(broken, registry)
    with caplog.at_level(logging.ERROR):
        assert Scrape(registry).families == []
    assert "no metrics of the GPUs" in caplog.text


def test_registering_again_replaces_the_old_one() -> None:
    """No series is there twice: Prometheus would refuse the whole scrape."""
    registry = CollectorRegistry()
    host = host_of(busy_facts(), [])
    metrics.register(lambda: host, registry)
    metrics.register(lambda: host, registry)
    assert len(Scrape(registry).all("ready")) == 1


# -- what is counted as it happens ---------------------------------------------------


@pytest.fixture
def counts() -> Any:
    """How much a sample of the default registry has grown."""
    before: dict[tuple[str, str], float] = {}

    def read(name: str, **labels: str) -> float:
        return REGISTRY.get_sample_value(f"gpuspawner_{name}", labels) or 0.0

    def grown(name: str, **labels: str) -> float:
        key = name, str(labels)
        now = read(name, **labels)
        return now - before.setdefault(key, now)

    return grown


def test_grants_and_their_waits_are_counted(counts: Any) -> None:
    """By type; a CPU server waits for no slot."""
    names: list[tuple[str, dict[str, str]]] = [
        ("grants_total", {"type": "A100"}),
        ("grants_total", {"type": ""}),
        ("queue_wait_seconds_count", {}),
        ("queue_wait_seconds_sum", {}),
    ]
    for name, labels in names:
        counts(name, **labels)
    pool = busy_facts().pool
    counting.granted(pool.leases["ls_1"], 42.0)
    counting.granted(pool.acquire("ls_9", ANN, SlotRequest(0), NOW), 0.0)
    grown = [counts(name, **labels) for name, labels in names]
    assert grown == [1, 1, 1, 42]


def test_the_cpu_time_of_a_process_is_read_or_unknown() -> None:
    """Never an error: the process may just have ended."""
    mine = cpu_s(os.getpid())
    assert mine is not None
    assert mine > 0
    assert cpu_s(None) is None
    assert cpu_s(2**22 + 1) is None
