"""What there is to lease, and which of the free slots to give for a request."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpuspawner import refusals
from gpuspawner.links import Topology
from gpuspawner.model import Device, Slot, SlotKind, SlotRequest, whole
from gpuspawner.slots import fits, overlap, pick_part, read, slots_of
from gpuspawner.topology import Chooser


@dataclass(frozen=True, slots=True)
class Pick:
    """Slots for a request, by device index, and one line why these."""

    slots: tuple[Slot, ...]
    why: str

    @property
    def ids(self) -> frozenset[str]:
        """The slots' ids."""
        return frozenset(slot.id for slot in self.slots)


class Stock:
    """The slots of one machine. Who holds which is the pool's.

    Args:
        shares: See `slots.slots_of`.
        keep_intact: See `Chooser`.

    Attributes:
        devices: UUID -> device, as last seen.
        slots: Id -> slot, as last seen, by device index.
        unfit: UUID of a device -> why it is not leased now.
    """

    def __init__(
        self, shares: Mapping[str, int], keep_intact: Mapping[int, int]
    ) -> None:
        self.devices: dict[str, Device] = {}
        self.slots: dict[str, Slot] = {}
        self.unfit: Mapping[str, str] = {}
        self._shares = dict(shares)
        self._largest_kept = max((k for k, n in keep_intact.items() if n), default=0)
        self._topology = Topology()
        self._chooser = Chooser(keep_intact)
        self._on_device: dict[str, list[Slot]] = {}
        self._why_never: dict[SlotRequest, str] = {}

    # -- what there is -----------------------------------------------------------

    def see(
        self, devices: Sequence[Device], topology: Topology | None
    ) -> tuple[Slot, ...]:
        """Take note of the devices there are now.

        Without a topology the one known is kept.

        Returns:
            Slots that were not there or not in reach when last seen: nobody knows what
            happened to them since.
        """
        before = self.slots
        if topology is not None:
            self._topology = topology
        self.devices = {device.uuid: device for device in sorted(devices)}
        self.slots = {slot.id: slot for slot in slots_of(devices, self._shares)}
        self._on_device = {}
        for slot in self.slots.values():
            self._on_device.setdefault(slot.device.uuid, []).append(slot)
        self._refresh()
        return tuple(
            slot
            for slot in self.slots.values()
            if not slot.device.is_lost
            and (slot.id not in before or before[slot.id].device.is_lost)
        )

    def judge(self, unfit: Mapping[str, str]) -> None:
        """Take note of which devices must not be leased now, and why."""
        if unfit != self.unfit:
            self.unfit = dict(unfit)
            self._refresh()

    def _refresh(self) -> None:
        self._why_never = {}
        whole_ones = [
            slot.device
            for slot in self.slots.values()
            if slot.kind is SlotKind.DEVICE and self.is_fit(slot)
        ]
        self._chooser.see(whole_ones, self._topology)

    def is_fit(self, slot: Slot) -> bool:
        """Whether the slot's device works, as far as is known."""
        return not slot.device.is_lost and slot.device.uuid not in self.unfit

    def current(self, held: Slot) -> Slot:
        """Return a slot as it is now; one that is not there any more as it was."""
        found = read(held.id, self.devices)
        return found if found.device.uuid in self.devices else held

    def beside(self, held: Slot) -> tuple[Slot, ...]:
        """Return the slots that cannot be leased while this one is held.

        Itself, or what its device was configured to anew.
        """
        near = self._on_device.get(held.device.uuid)
        if near is None:  # a MIG instance whose device was not known
            near = [self.slots[held.id]] if held.id in self.slots else []
        return tuple(slot for slot in near if overlap(slot, held))

    # -- what to give ------------------------------------------------------------

    def reach(self, request: SlotRequest) -> frozenset[str]:
        """Return every slot that may serve a request, once it is free."""
        return frozenset(
            slot.id
            for slot in self.slots.values()
            if fits(slot, request) and self.is_fit(slot)
        )

    def pick(self, request: SlotRequest, free: Iterable[Slot]) -> Pick | None:
        """Return slots for a request, None if none will do.

        Args:
            request: What is asked for.
            free: All that can be leased, whether they suit the request or not.
        """
        if not request.n_slots:
            return Pick((), "no GPU asked for")
        if request.kind is SlotKind.DEVICE:
            uuids = {slot.id for slot in free if slot.kind is SlotKind.DEVICE}
            choice = self._chooser.choose(uuids, request)
            return (
                Pick(tuple(map(whole, choice.devices)), choice.why) if choice else None
            )
        if request.n_slots > 1:
            return None  # a program sees one MIG instance; shares do not add up either
        found = pick_part(tuple(free), tuple(self.slots.values()), request)
        return Pick((found[0],), found[1]) if found else None

    def note(self, request: SlotRequest) -> None:
        """Remember a granted request, so that good sets for others like it are left."""
        if request.kind is SlotKind.DEVICE and request.n_slots:
            self._chooser.note(request)

    def is_kept_from(self, request: SlotRequest) -> bool:
        """Whether there may be groups that a request must not break."""
        return request.kind is SlotKind.DEVICE and request.n_slots < self._largest_kept

    # -- words -------------------------------------------------------------------

    def why_never(self, request: SlotRequest) -> str:
        """Return why a request cannot be granted, were all slots free; "" if it can."""
        if request not in self._why_never:
            self._why_never[request] = self._find_why_never(request)
        return self._why_never[request]

    def _find_why_never(self, request: SlotRequest) -> str:
        fit = [slot for slot in self.slots.values() if self.is_fit(slot)]
        if self.pick(request, fit):
            return ""
        return self.why_unsuited(request, fit) or refusals.never(
            request,
            n_all=sum(fits(slot, request) for slot in self.slots.values()),
            n_fit=sum(fits(slot, request) for slot in fit),
            has_gpu=bool(self.slots),
        )

    def why_unsuited(self, request: SlotRequest, free: Iterable[Slot]) -> str:
        """Return why enough free devices do not make a set, "" if they are too few."""
        fitting = {slot.id for slot in free if fits(slot, request)}
        if request.kind is not SlotKind.DEVICE or len(fitting) < request.n_slots:
            return ""
        return self._chooser.why_not(fitting, request)
