"""Counts leases as they are granted, for JupyterHub's own /hub/metrics.

Since the hub was started; Prometheus takes a restart into account. How long starts take
and why they are refused JupyterHub counts: jupyterhub_server_spawn_duration_seconds.
"""

from prometheus_client import Counter, Histogram

from gpuspawner.model import Lease

WAITS_S = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200)

_GRANTS = Counter(
    "gpuspawner_grants",
    "Leases granted, by type of the slots (empty: CPU only).",
    ["type"],
)
_WAITS = Histogram(
    "gpuspawner_queue_wait_seconds",
    "From the request for slots until they were granted.",
    buckets=WAITS_S,
)


def granted(lease: Lease, waited_s: float) -> None:
    """Count a lease, `waited_s` seconds after it was asked for."""
    _GRANTS.labels(lease.slots[0].type if lease.slots else "").inc()
    if lease.slots:
        _WAITS.observe(waited_s)
