"""What the window shows as Prometheus metrics, made anew at every scrape.

JupyterHub serves them on /hub/metrics with its own. What is unknown is absent.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import product
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gpuspawner.faults import Health
from gpuspawner.host import Host
from gpuspawner.looking import facts_of
from gpuspawner.model import LeaseState
from gpuspawner.view import JSON, SLOT_STATES, show

STALE_INTERVALS = 3  # a reading that is older says nothing about now
DEVICE = ("uuid", "index", "name")
ANY = "any"  # what the type of a request is called that names none
Labels = tuple[str, ...]

log = logging.getLogger(__name__)


class HostCollector(Collector):
    """Makes metrics of a host.

    Args:
        host: Returns the host, None while there is none; then there are no metrics.
    """

    def __init__(self, host: Callable[[], Host | None]) -> None:
        self._host = host
        self._n_alarms = 0
        self._counted_to = datetime.min.replace(tzinfo=UTC)

    def describe(self) -> Iterable[Metric]:
        """Return nothing: what there is changes, and names are not checked by it."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Return the metrics. Never raises: other metrics of the hub go on."""
        try:
            host = self._host()
            if host is None:
                return []
            seen = show(facts_of(host), datetime.now(UTC))
            return [*families(seen), self._alarms(host.rounds.alarms)]
        except Exception:
            log.exception("no metrics of the GPUs this time")
            return []

    def _alarms(self, alarms: Iterable[tuple[datetime, str]]) -> Metric:
        """Return how many there were; the host keeps only the newest hundred."""
        new = [at for at, _ in alarms if at > self._counted_to]
        self._n_alarms += len(new)
        self._counted_to = max(new, default=self._counted_to)
        return CounterMetricFamily(
            "gpuspawner_alarms", "Alarms to admins.", value=self._n_alarms
        )


_registered: dict[CollectorRegistry, HostCollector] = {}


def register(
    host: Callable[[], Host | None], registry: CollectorRegistry = REGISTRY
) -> None:
    """Let a registry collect from this host; again puts the new one in its place."""
    if old := _registered.pop(registry, None):
        registry.unregister(old)
    _registered[registry] = HostCollector(host)
    registry.register(_registered[registry])


def families(seen: JSON) -> Iterator[Metric]:
    """Yield the metrics of what `view.show` returned, but for the alarms."""
    yield from _machine(seen)
    yield from _devices(seen)
    yield from _slots_and_leases(seen)
    yield from _starts(seen)


def _machine(seen: JSON) -> Iterator[Metric]:
    sampling = seen["sampling"]
    yield _gauge("ready", "1: leases are granted.", _one(seen["is_ready"]))
    yield _gauge("trouble", "1: GPUs cannot be read.", _one(seen["trouble"]))
    yield _gauge("sampling_interval_seconds", "Between two readings of all GPUs.",
                 sampling["interval_s"])  # fmt: skip
    yield _gauge("sample_age_seconds", "Since the last reading.", sampling["age_s"])
    yield _gauge("sweep_duration_seconds", "Of the last reading, wall clock.",
                 sampling["reading_s"])  # fmt: skip
    yield _gauge("round_duration_seconds", "Of the last reading and its consequences.",
                 sampling["round_s"])  # fmt: skip
    used = CounterMetricFamily(
        "gpuspawner_reader_cpu_seconds", "CPU time of the process that reads the GPUs."
    )
    if sampling["reader_cpu_s"] is not None:
        used.add_metric((), sampling["reader_cpu_s"])
    yield used


def _devices(seen: JSON) -> Iterator[Metric]:
    health = _family("device_health", "1: the device's state.", (*DEVICE, "state"))
    memory = _family("device_memory_bytes", "Total memory.", DEVICE)
    for device in seen["devices"]:
        who = _who(device)
        memory.add_metric(who, device["memory_bytes"])
        for state in Health:
            is_it = device["health"]["state"] == state.value
            health.add_metric((*who, state.value), float(is_it))
    yield health
    yield memory
    oldest_s = STALE_INTERVALS * seen["sampling"]["interval_s"]
    fresh = [d for d in seen["devices"] if (d["sample"]["age_s"] or 0) <= oldest_s]
    for name, key, text in (
        ("utilisation_ratio", "utilisation", "Share of time in which a kernel ran."),
        ("memory_used_bytes", "memory_used_bytes", "By all programs and the driver."),
        ("temperature_celsius", "temperature_c", "Of the GPU."),
        ("power_watts", "power_w", "Drawn now."),
        ("processes", "n_processes", "Programs on it."),
    ):
        family = _family(f"device_{name}", text, DEVICE)
        for device in fresh:
            if device["sample"][key] is not None:
                family.add_metric(_who(device), device["sample"][key])
        yield family


def _slots_and_leases(seen: JSON) -> Iterator[Metric]:
    yield _counted(
        "slots",
        "What can be leased, by state.",
        {"state": SLOT_STATES, "type": _types(seen)},
        ((slot["state"], slot["type"]) for slot in seen["slots"]),
    )
    yield _counted(
        "leases",
        "Servers that hold a lease, also of CPU only.",
        {"state": [state.value for state in LeaseState]},
        ((lease["state"],) for lease in seen["leases"]),
    )
    info = _family(
        "lease_info",
        "1: this server holds this slot; uuid is that of the GPU.",
        ("uuid", "user", "server", "lease", "slot", "kind"),
    )
    for lease in seen["leases"]:
        for slot in lease["slots"]:
            holder = (lease["user"], lease["server"], lease["id"])
            info.add_metric((slot["device"], *holder, slot["id"], slot["kind"]), 1)
    yield info
    yield _idle(seen)


def _idle(seen: JSON) -> Metric:
    """Return for how long GPU servers are idle, where that is known."""
    family = _family(
        "lease_idle_seconds",
        "Since every GPU of this server is idle, 0 while one is busy.",
        ("user", "server", "lease"),
    )
    now = datetime.fromisoformat(seen["at"])
    for lease in seen["leases"]:
        use = lease["use"]
        if use is None or use["state"] == "unknown":
            continue
        since = use["idle_since"] and datetime.fromisoformat(use["idle_since"])
        idle_s = max(0.0, (now - since).total_seconds()) if since else 0.0
        family.add_metric((lease["user"], lease["server"], lease["id"]), idle_s)
    return family


def _starts(seen: JSON) -> Iterator[Metric]:
    yield _counted(
        "queue_length",
        "Servers that wait for slots, by the type asked for.",
        {"type": [ANY, *_types(seen)]},
        ((_type(ticket),) for ticket in seen["queue"]),
    )
    longest: dict[Labels, float] = {}
    for ticket in seen["queue"]:
        if ticket["wait_s"] is not None:
            key = (_type(ticket),)
            longest[key] = max(longest.get(key, 0.0), ticket["wait_s"])
    expected = _family(
        "queue_expected_wait_seconds", "Longest wait of these, by estimate.", ("type",)
    )
    for labels, seconds in longest.items():
        expected.add_metric(labels, seconds)
    yield expected
    boots = seen["boots"]
    starting = _family("boots", "Servers that boot or wait to.", ("state",))
    starting.add_metric(("booting",), len(boots["booting"]))
    starting.add_metric(("waiting",), len(boots["waiting"]))
    yield starting
    yield _gauge("boots_limit", "Servers that may boot at once.", boots["limit"])


def _who(device: Mapping[str, Any]) -> Labels:
    return device["uuid"], str(device["index"]), device["name"]


def _type(ticket: Mapping[str, Any]) -> str:
    return ticket["request"]["type"] or ANY


def _types(seen: JSON) -> list[str]:
    return sorted({slot["type"] for slot in seen["slots"]})


def _one(value: object) -> float:
    return 1.0 if value else 0.0


def _family(name: str, text: str, labels: Labels = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"gpuspawner_{name}", text, labels=labels)


def _gauge(name: str, text: str, value: float | None) -> Metric:
    family = _family(name, text)
    if value is not None:
        family.add_metric((), value)
    return family


def _counted(
    name: str,
    text: str,
    known: Mapping[str, Iterable[str]],
    found: Iterable[Labels],
) -> Metric:
    """Return how often each was found; those known are there at 0, too."""
    family = _family(name, text, tuple(known))
    counts = Counter(dict.fromkeys(product(*known.values()), 0))
    counts.update(found)
    for values, n in counts.items():
        family.add_metric(values, n)
    return family
