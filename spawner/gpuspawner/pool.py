"""The single owner of slots: who holds which device, in memory.

Every method is synchronous, so within one event loop each is atomic. The truth lies in
the engine's containers; `apply` brings the pool back to it.
"""

from collections.abc import Mapping, Sequence

from gpuspawner.errors import NoCapacity, NotReady
from gpuspawner.model import Device, Lease, LeaseState, Owner, SlotRequest
from gpuspawner.recovery import Plan
from gpuspawner.topology import choose


class Pool:
    """Leases whole devices, each to one server at a time.

    Attributes:
        devices: UUID -> device, as last seen.
        leases: Id -> lease; a lease stays until its container is surely gone.
        foreign: UUID -> container that is not ours and holds the device.
        is_ready: The engine's containers have been read; nothing is granted before.
        trouble: Why the devices cannot be read now, "" if they can; while there is
            trouble no device is granted.
    """

    def __init__(self) -> None:
        self.devices: dict[str, Device] = {}
        self.leases: dict[str, Lease] = {}
        self.foreign: Mapping[str, str] = {}
        self.is_ready = False
        self.trouble = ""

    def see(self, devices: Sequence[Device]) -> None:
        """Take note of the devices there are now."""
        self.trouble = ""
        self.devices = {device.uuid: device for device in devices}

    def apply(self, plan: Plan) -> None:
        """Bring leases in line with the containers; from now on leases are granted."""
        for lease in plan.adopt:
            self.leases.setdefault(lease.id, lease)
        for lease_id in plan.drop:
            self.leases.pop(lease_id, None)
        self.foreign = dict(plan.foreign)
        self.is_ready = True

    @property
    def holders(self) -> dict[str, Lease]:
        """UUID -> the lease that holds it."""
        return {uuid: lease for lease in self.leases.values() for uuid in lease.uuids}

    @property
    def free(self) -> tuple[Device, ...]:
        """Devices that can be leased now, by index."""
        if self.trouble:
            return ()
        taken = self.holders.keys() | self.foreign.keys()
        return tuple(
            sorted(
                device
                for device in self.devices.values()
                if device.uuid not in taken and not device.is_lost
            )
        )

    def acquire(self, lease_id: str, owner: Owner, request: SlotRequest) -> Lease:
        """Return a lease of exactly the devices asked for, in state STARTING.

        A CPU server gets a lease without devices, so that every container has one.

        Raises:
            NotReady: The containers or the devices cannot be read now.
            NoCapacity: Too few devices are free; says who has to wait for what.
            ValueError: The id is in use.
        """
        if not self.is_ready:
            raise NotReady(
                "The hub is still reading which GPUs are in use. Try again in a moment."
            )
        if lease_id in self.leases:
            raise ValueError(f"lease {lease_id} exists")
        if self.trouble and request.n_slots:
            raise NotReady(f"{self.trouble} Until then choose CPU only.")
        free = self.free
        if request.n_slots > len(free):
            raise NoCapacity(self._why_full(request.n_slots, len(free)))
        devices, why = choose(free, request.n_slots)
        lease = Lease(lease_id, owner, devices, LeaseState.STARTING, why)
        self.leases[lease_id] = lease
        return lease

    def activate(self, lease_id: str) -> None:
        """Note that the lease's container runs; an ended lease stays ended."""
        self._move(lease_id, LeaseState.ACTIVE, {LeaseState.STARTING})

    def end(self, lease_id: str) -> None:
        """Note that the lease's container must go. Its devices stay taken until then.

        Safe to call twice, and for leases that are already gone.
        """
        self._move(
            lease_id, LeaseState.RELEASING, {LeaseState.STARTING, LeaseState.ACTIVE}
        )

    def release(self, lease_id: str) -> None:
        """Give the devices back. Only for a lease whose container is surely gone."""
        self.leases.pop(lease_id, None)

    def _move(self, lease_id: str, to: LeaseState, states: set[LeaseState]) -> None:
        lease = self.leases.get(lease_id)
        if lease and lease.state in states:
            self.leases[lease_id] = lease.to(to)

    def _why_full(self, wanted: int, n_free: int) -> str:
        total = len(self.devices)
        lost = sum(device.is_lost for device in self.devices.values())
        if wanted > total:
            return (
                f"This machine has {_gpus(total)}; {wanted} were asked for. "
                "Choose a smaller server."
            )
        begin = (
            "No GPU is free"
            if n_free == 0
            else f"Only {_gpus(n_free)} of the {wanted} asked for "
            f"{'is' if n_free == 1 else 'are'} free"
        )
        parts = [f"{len(self.holders.keys() & self.devices.keys())} leased"]
        if self.foreign:
            parts.append(f"{len(self.foreign)} used by other programs")
        if lost:
            parts.append(f"{lost} not answering")
        lacking = wanted - n_free
        are = "is" if lacking == 1 else "are"
        return (
            f"{begin}: of {_gpus(total)}, {', '.join(parts)}. You can start as soon as "
            f"{_gpus(lacking)} more {are} given back; until then choose CPU only, your "
            "files are the same."
        )


def _gpus(n: int) -> str:
    return "1 GPU" if n == 1 else f"{n} GPUs"
