"""What must be done so that containers and leases agree again. A pure plan.

The containers are the truth about who holds a GPU; leases in memory are a cache of it.
Applying a plan twice does nothing the second time.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from gpuspawner import container as c
from gpuspawner import slots
from gpuspawner.model import Container, Device, Lease, LeaseState


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        adopt: Leases of containers that the pool does not know; those that nobody
            claims are RELEASING, so that their devices stay taken until they are gone.
        remove: Ids of our containers that nobody claims, or whose lease must end.
        drop: Ids of leases whose container is gone.
        foreign: UUID of a device or MIG instance -> name of a container that is not
            ours and holds it.
    """

    adopt: tuple[Lease, ...] = ()
    remove: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    foreign: Mapping[str, str] = field(default_factory=dict)


def plan(
    hub: str,
    containers: Sequence[Container],
    leases: Mapping[str, Lease],
    claims: Set[str],
    devices: Sequence[Device],
    *,
    bystanders: Set[str] = frozenset(),
) -> Plan:
    """Return what makes leases and containers agree.

    Args:
        hub: Containers with another hub's label are never touched.
        containers: Every container of the engine, listed *after* `leases` was copied:
            a container is created only after its lease exists.
        leases: Id -> lease as the pool knew them before the listing.
        claims: Lease ids that spawners loaded from the hub's database or started.
        devices: All devices of the machine.
        bystanders: Names of other containers whose devices may be leased all the same.
    """
    by_uuid = {device.uuid: device for device in devices}
    adopt, remove, seen = [], [], set()
    for found in containers:
        if not c.is_ours(hub, found):
            continue
        lease = _read(found, by_uuid)
        known = leases.get(lease.id)
        seen.add(lease.id)
        is_orphan = known is None and lease.id not in claims
        if known is None:
            adopt.append(lease.to(LeaseState.RELEASING) if is_orphan else lease)
        if is_orphan or (known and known.state is LeaseState.RELEASING):
            remove.append(found.id)
    drop = [
        lease.id
        for lease in leases.values()
        if lease.id not in seen and lease.state is not LeaseState.STARTING
    ]
    return Plan(
        tuple(adopt),
        tuple(remove),
        tuple(drop),
        _foreign(hub, [x for x in containers if x.name not in bystanders], devices),
    )


def _read(found: Container, by_uuid: Mapping[str, Device]) -> Lease:
    """Return the lease that the labels describe; a vanished device stays in it."""
    held = tuple(slots.read(slot_id, by_uuid) for slot_id in c.slots_of(found))
    lease_id = found.labels.get(c.LEASE) or found.id
    return Lease(
        lease_id,
        c.owner_of(found),
        held,
        LeaseState.ACTIVE,
        "found running",
        found.started_at,
    )


def _foreign(
    hub: str, containers: Iterable[Container], devices: Sequence[Device]
) -> dict[str, str]:
    """Return what is held by running containers that are not ours."""
    held: dict[str, str] = {}
    for found in containers:
        if c.is_ours(hub, found) or not found.is_running:
            continue
        names = {name.removeprefix("nvidia.com/gpu=") for name in found.claim.ids}
        takes_all = found.claim.takes_all or "all" in names
        for device in devices:
            if takes_all or names & {device.uuid, str(device.index)}:
                held[device.uuid] = found.name
            for i, instance in enumerate(device.instances):
                if names & {instance.uuid, f"{device.index}:{i}"}:
                    held[instance.uuid] = found.name
    return held
