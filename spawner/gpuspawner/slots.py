"""Which slots a machine has, which exclude each other, and which part to give first."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from gpuspawner.model import Device, Slot, SlotKind, SlotRequest, whole

MIG_PREFIX = "MIG-"
SHARE = re.compile(r"([0-9]{1,4}):([0-9]{1,4})")


class SlotState(StrEnum):
    """Whether a slot can be leased now.

    UNFIT: its device does not work. FOREIGN: a container that is not ours has it.
    LEASED: a lease holds it or its device otherwise. RETURNED: not seen clean since.
    """

    FREE = "free"
    LEASED = "leased"
    RETURNED = "returned"
    FOREIGN = "foreign"
    UNFIT = "unfit"


def slots_of(devices: Iterable[Device], shares: Mapping[str, int]) -> tuple[Slot, ...]:
    """Return every slot of these devices, by device index.

    Args:
        devices: All devices; a split one gives its MIG instances, whatever `shares` is.
        shares: UUID, index or product name of a device -> how many users share it;
            the UUID counts before the index, the index before the name.
    """
    found: list[Slot] = []
    for device in sorted(devices):
        n = _n_shares(device, shares)
        if device.is_split:
            found += [_instance(device, i.uuid) for i in device.instances]
        elif n > 1:
            found += [_share(device, i, n) for i in range(n)]
        else:
            found.append(whole(device))
    return tuple(found)


def unknown_keys(shares: Mapping[str, int], devices: Iterable[Device]) -> list[str]:
    """Return the keys of `shares` that name no device of the machine."""
    known = {key for device in devices for key in _keys(device)}
    return sorted(set(shares) - known)


def read(slot_id: str, devices: Mapping[str, Device]) -> Slot:
    """Return the slot that a label names; a device that is not there is a lost one.

    What is no share that can be stands for the whole device, so that nobody else gets
    a part of it.

    Args:
        slot_id: See `Slot.id`, of a MIG instance with or without `<device UUID>/` in
            front; anything at all, labels can be garbled.
        devices: UUID -> device.
    """
    if slot_id.startswith(MIG_PREFIX):
        for device in devices.values():
            if any(instance.uuid == slot_id for instance in device.instances):
                return _instance(device, slot_id)
        return Slot(_unknown(slot_id), slot_id, SlotKind.MIG, 0)
    uuid, _, part = slot_id.partition("/")
    device = devices.get(uuid) or _unknown(uuid)
    if part.startswith(MIG_PREFIX):
        if any(instance.uuid == part for instance in device.instances):
            return _instance(device, part)
        return Slot(device, part, SlotKind.MIG, 0)
    if found := SHARE.fullmatch(part):
        number, of = map(int, found.groups())
        if number < of and of > 1:
            return _share(device, number, of)
    return whole(device)


def overlap(one: Slot, other: Slot) -> bool:
    """Return whether two slots cannot be leased to two servers at once."""
    if one.id == other.id:
        return True
    if one.device.uuid != other.device.uuid:
        return False
    if one.kind is not other.kind or one.kind is SlotKind.DEVICE:
        return True
    # Shares of another number than now: the device was configured anew under a lease.
    return one.kind is SlotKind.SHARE and one.profile != other.profile


def pick_part(
    free: Sequence[Slot], every: Sequence[Slot], request: SlotRequest
) -> tuple[Slot, str] | None:
    """Return the MIG instance or share to give, and one line why; None if none fits.

    The smallest that is large enough; of those, one on the device with the largest part
    of its slots free, because fewer neighbours are faster: shares divide only the
    memory, and a device's parts are never leased as a whole. Ties: index, then id.

    Args:
        free: All slots that can be leased, whether they suit the request or not.
        every: All slots.
        request: For one slot.
    """
    fitting = [slot for slot in free if fits(slot, request)]
    if not fitting:
        return None
    n_free = Counter(slot.device.uuid for slot in free)
    n_all = Counter(slot.device.uuid for slot in every)

    def rank(slot: Slot) -> tuple[int, float, int, str]:
        uuid = slot.device.uuid
        return (
            slot.memory_bytes,
            -n_free[uuid] / n_all[uuid],
            slot.device.index,
            slot.id,
        )

    chosen = min(fitting, key=rank)
    uuid = chosen.device.uuid
    return chosen, f"{chosen}: {n_free[uuid]} of {n_all[uuid]} parts of it were free"


def fits(slot: Slot, request: SlotRequest) -> bool:
    """Return whether a slot is of the kind, type and size asked for."""
    return (
        slot.kind is request.kind
        and request.type in {"", slot.type}
        and slot.memory_bytes >= request.min_memory_bytes
    )


def _keys(device: Device) -> tuple[str, str, str]:
    return device.uuid, str(device.index), device.name


def _n_shares(device: Device, shares: Mapping[str, int]) -> int:
    return next((shares[key] for key in _keys(device) if key in shares), 1)


def _instance(device: Device, uuid: str) -> Slot:
    found = next(i for i in device.instances if i.uuid == uuid)
    return Slot(device, uuid, SlotKind.MIG, found.memory_bytes, found.profile)


def _share(device: Device, number: int, of: int) -> Slot:
    memory = device.memory_bytes // of
    slot_id = f"{device.uuid}/{number}:{of}"
    return Slot(device, slot_id, SlotKind.SHARE, memory, f"1/{of}")


def _unknown(uuid: str) -> Device:
    return Device(-1, uuid, "unknown GPU", 0, -1, is_lost=True)
