"""What the plugin needs from the world. Adapters implement these; tests may too."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from gpuspawner.links import Topology
from gpuspawner.model import (
    Container,
    Device,
    Lease,
    LeaseEnd,
    Offer,
    Owner,
    Payer,
    Quote,
    Settlement,
    Statement,
)
from gpuspawner.sample import Sweep


class Probe(Protocol):
    """Reads the machine's GPUs. Every method raises ProbeFailed if nothing answers."""

    async def list_devices(self) -> tuple[Device, ...]:
        """Return every device, lost ones marked; () without a driver.

        Raises:
            ProbeFailed: A driver is there but does not answer; a sentence says why.
        """
        ...

    async def topology(self) -> Topology:
        """Return how the devices are connected; what NVML refuses is unknown."""
        ...

    async def sweep(self) -> Sweep:
        """Return a sample of every device and MIG instance, and the new events."""
        ...

    async def limit_memory(
        self, uuid: str, cgroup: str, limit_bytes: int
    ) -> int | None:
        """Cap the memory that a cgroup may use on a device; return what is read back.

        None: this driver or this hub's rights do not allow it.
        """
        ...

    @property
    def absence(self) -> str | None:
        """A sentence why there are no devices, None if there are some."""
        ...


class Engine(Protocol):
    """Runs containers. Every method raises EngineUnknown if nothing is known.

    EngineRefused means the engine answered no.
    """

    async def list(self) -> list[Container]:
        """Return every container, stopped ones too."""
        ...

    async def inspect(self, name: str) -> Container | None:
        """Return one container by name or id, None only if it surely is gone."""
        ...

    async def stop(self, name: str, *, timeout_s: int = 10) -> Container | None:
        """Stop a container; return it as it is then, None if it surely is gone.

        It does not run any more when this returns, and says when it ended.
        """
        ...

    async def remove(self, name: str) -> None:
        """Remove a container, also a running one; it is gone when this returns."""
        ...

    async def died_at(self, labels: Mapping[str, str]) -> datetime | None:
        """Return when the container with these labels ended last, None if forgotten.

        It may be gone. By the engine's clock.
        """
        ...

    async def run_check(
        self, name: str, command: Sequence[str], *, user: str = "0"
    ) -> int:
        """Run a short command inside a running container; return its exit status.

        By default as root, so that no file mode hides anything; "" is the image's user.
        """
        ...

    def pull(self, image: str) -> AsyncIterator[str]:
        """Yield progress sentences until the image is there; nothing if it was."""
        ...

    async def facts(self) -> Mapping[str, Any]:
        """Return memory_bytes, n_cpus and cdi_devices of the engine's machine."""
        ...


class Offers(Protocol):
    """Who may take which sizes; the catalogue will stand behind it."""

    def for_owner(
        self, owner: Owner, groups: Sequence[str], machine: Sequence[Offer]
    ) -> Sequence[Offer]:
        """Return the offers of this user, the default first; never empty."""
        ...


class Meter(Protocol):
    """Prices, and whose tokens pay for a lease. A ledger stands behind it.

    Every method may raise Refusal (the user reads why) or MeterFailed (nothing was
    changed; it may be tried again). All are safe to repeat. Times are the plugin's, and
    they never step: see `clock`.
    """

    async def courses(self, groups: Sequence[str]) -> Mapping[str, str]:
        """Return which of these groups a server can be started for: name -> title."""
        ...

    async def quote(
        self, payer: Payer, choices: Sequence[Sequence[str]], at: datetime
    ) -> Sequence[Quote]:
        """Return what servers would cost, one answer for each choice.

        Args:
            payer: Who would pay.
            choices: Of each server the types of all its slots, (CPU_TYPE,) if none.
            at: Now.
        """
        ...

    async def hold(self, lease: Lease, payer: Payer, at: datetime) -> None:
        """Reserve what the first minutes of a lease cost, at the price of its slots.

        Raises:
            Refusal: It cannot be paid for; nothing is reserved.
        """
        ...

    async def ready(self, lease_id: str, at: datetime) -> None:
        """Let the meter run from this moment; a second call changes nothing."""
        ...

    async def settle(self, running: Mapping[str, datetime]) -> Settlement:
        """Charge leases for what they used.

        Args:
            running: Lease id -> a moment at which it certainly ran.
        """
        ...

    async def end(self, lease_id: str, end: LeaseEnd) -> None:
        """Charge the rest, give the reserve back; a second call changes nothing."""
        ...

    async def open_leases(self) -> Mapping[str, datetime | None]:
        """Return the leases that have not ended -> until when each is charged.

        None: its meter does not run yet.
        """
        ...

    async def statement(self, lease: Lease, payer: Payer, at: datetime) -> Statement:
        """Return the owner's balance and what this lease burns."""
        ...


class EveryMachineOffer:
    """Offers every size of the machine to everybody."""

    def for_owner(
        self,
        owner: Owner,  # noqa: ARG002 - the port's signature
        groups: Sequence[str],  # noqa: ARG002
        machine: Sequence[Offer],
    ) -> Sequence[Offer]:
        """Return all of them."""
        return machine


class PlaceholderMeter:
    """For a hub without a ledger: no tokens are counted, and it says so."""

    async def courses(self, groups: Sequence[str]) -> Mapping[str, str]:  # noqa: ARG002
        """Return {}."""
        return {}

    async def quote(
        self,
        payer: Payer,  # noqa: ARG002 - the port's signature
        choices: Sequence[Sequence[str]],
        at: datetime,  # noqa: ARG002
    ) -> Sequence[Quote]:
        """Return no prices and no refusals."""
        return [Quote() for _ in choices]

    async def hold(self, lease: Lease, payer: Payer, at: datetime) -> None:
        """Do nothing."""

    async def ready(self, lease_id: str, at: datetime) -> None:
        """Do nothing."""

    async def settle(self, running: Mapping[str, datetime]) -> Settlement:  # noqa: ARG002
        """Find nothing."""
        return Settlement()

    async def end(self, lease_id: str, end: LeaseEnd) -> None:
        """Do nothing."""

    async def open_leases(self) -> Mapping[str, datetime | None]:
        """Return {}."""
        return {}

    async def statement(
        self,
        lease: Lease,  # noqa: ARG002
        payer: Payer,  # noqa: ARG002
        at: datetime,  # noqa: ARG002
    ) -> Statement:
        """Return a statement without figures."""
        return Statement(
            provider="placeholder",
            is_placeholder=True,
            balance_microtokens=None,
            rate_microtokens_per_hour=None,
            note="Tokens are not metered on this hub: nothing is charged.",
        )
