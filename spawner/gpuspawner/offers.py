"""What a user may start: sizes from the machine, and a check of what was chosen."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count

from gpuspawner.errors import InvalidSelection
from gpuspawner.exits import human_bytes
from gpuspawner.model import Limits, Offer, Slot, SlotKind, SlotRequest

GIB = 2**30
MIB = 2**20
SHM_SHARE = 0.5  # of the memory limit: DataLoader workers pass batches through it
PIDS = 4096
CPU_ONLY_MEMORY = 2 * GIB
KEYS = frozenset({"offer", "course"})
LONGEST_COURSE = 255
SHOWN = 40  # characters of a user's input that an error repeats
KEPT_FOR_HOST = 0.1  # share of memory that servers together leave to the host


def limits(memory_bytes: int, n_cpus: float) -> Limits:
    """Return limits whose shm is a share of the memory, never Docker's 64 MB."""
    shm = max(64 * MIB, int(memory_bytes * SHM_SHARE))
    return Limits(memory_bytes, min(shm, memory_bytes), n_cpus, PIDS)


def from_machine(
    slots: Sequence[Slot], memory_bytes: int, n_cpus: int
) -> tuple[Offer, ...]:
    """Return the default offers: CPU only, then 1, 2, 4, ... and all devices.

    Where devices differ, one device of any type and then sizes of each type; then each
    kind of MIG instance and share. A server's memory and CPUs are its part of the
    machine by devices; a machine without devices offers CPU only. Names are unique.
    """
    machine = _Machine.of(slots, memory_bytes, n_cpus)
    found = [machine.cpu_only()]
    n_of_type = Counter(slot.type for slot in slots if slot.kind is SlotKind.DEVICE)
    if len(n_of_type) > 1:
        found.append(machine.devices("1-gpu", "1 GPU, any type", SlotRequest(1)))
    for type_, n in n_of_type.items():
        for k in _sizes(n):
            if len(n_of_type) == 1:
                title = "1 GPU" if k == 1 else f"{k} GPUs"
                name, request = f"{k}-gpu", SlotRequest(k)
            else:
                title = f"{k} x {type_}"
                name, request = f"{k}-{_slug(type_)}", SlotRequest(k, type=type_)
            found.append(machine.devices(name, title, request))
    parts = {slot.type: slot for slot in slots if slot.kind is not SlotKind.DEVICE}
    found += [machine.part(slot) for slot in parts.values()]
    return tuple(_with_own_names(found))


@dataclass(frozen=True, slots=True)
class _Machine:
    """What there is to hand out; see `from_machine`."""

    memory_bytes: int
    n_cpus: int
    n_devices: int

    @classmethod
    def of(cls, slots: Sequence[Slot], memory_bytes: int, n_cpus: int) -> "_Machine":
        n_devices = len({slot.device.uuid for slot in slots})
        return cls(int(memory_bytes * (1 - KEPT_FOR_HOST)), n_cpus, n_devices)

    @property
    def _cpu_memory(self) -> int:
        return max(256 * MIB, min(CPU_ONLY_MEMORY, self.memory_bytes // 2))

    def cpu_only(self) -> Offer:
        least = limits(self._cpu_memory, float(min(2, self.n_cpus)))
        return Offer("cpu", "CPU only", SlotRequest(0), least)

    def devices(self, name: str, title: str, request: SlotRequest) -> Offer:
        return Offer(name, title, request, self._part_of(request.n_slots))

    def part(self, slot: Slot) -> Offer:
        title = f"{slot.type} ({human_bytes(slot.memory_bytes)} of a GPU's memory)"
        share = slot.memory_bytes / max(1, slot.device.memory_bytes)
        request = SlotRequest(1, slot.kind, slot.type)
        return Offer(_slug(slot.type), title, request, self._part_of(min(1, share)))

    def _part_of(self, n_devices: float) -> Limits:
        share = n_devices / self.n_devices
        memory = max(self._cpu_memory, int(self.memory_bytes * share) // MIB * MIB)
        return limits(memory, max(1.0, round(self.n_cpus * share, 2)))


def _slug(type_: str) -> str:
    """Return a type as a name that a URL and a label can carry, like "a100-1g.10gb"."""
    text = type_.lower().replace("nvidia", "").replace("/", "-of-")
    return re.sub(r"[^a-z0-9.]+", "-", text).strip("-")


def _with_own_names(found: Sequence[Offer]) -> Iterator[Offer]:
    """Yield the offers; of two types that read alike as names the later gets a number.

    Without it nobody could choose the later one.
    """
    taken: set[str] = set()
    for offer in found:
        names = chain([offer.name], (f"{offer.name}-{n}" for n in count(2)))
        name = next(name for name in names if name not in taken)
        taken.add(name)
        yield replace(offer, name=name)


def _sizes(n: int) -> list[int]:
    sizes = [1 << i for i in range(n.bit_length()) if 1 << i <= n]
    return sizes if n == 0 or sizes[-1] == n else [*sizes, n]


def select(offers: Sequence[Offer], options: object) -> Offer:
    """Return the offer that `options` names; no options mean the first offer.

    `options` is whatever a user sent and is never trusted: the only form accepted is
    {"offer": NAME}, and beside it "course", see `course_of`.

    Raises:
        InvalidSelection: Anything else, with a sentence that lists what is on offer; or
            nothing is on offer.
    """
    if not offers:
        raise InvalidSelection("No server is on offer for you here. Ask your admin.")
    names = ", ".join(offer.name for offer in offers)
    if options is None:
        return offers[0]
    if not isinstance(options, Mapping):
        raise InvalidSelection(
            f'The options must be an object like {{"offer": "cpu"}}. On offer: {names}.'
        )
    unknown = sorted(str(key) for key in options if key not in KEYS)
    if unknown:
        shown = ", ".join(_short(key) for key in unknown[:5])
        raise InvalidSelection(
            f'Unknown option: {shown}. The options are "course" and "offer", one of: '
            f"{names}. Nothing was started."
        )
    if "offer" not in options:
        return offers[0]
    name = options["offer"]
    for offer in offers:
        if isinstance(name, str) and name == offer.name:
            return offer
    raise InvalidSelection(
        f"{_short(name)} is not on offer here. "
        f"Choose one of: {names}. Nothing was started."
    )


def course_of(options: object) -> str:
    """Return the course that `options` names, "" if none; whose it is is not checked.

    Raises:
        InvalidSelection: What is there cannot be a course's name.
    """
    found = options.get("course", "") if isinstance(options, Mapping) else ""
    if not isinstance(found, str) or len(found) > LONGEST_COURSE:
        raise InvalidSelection(
            f"{_short(found)} is no course. Send the name of one of your courses, or "
            "leave it out. Nothing was started."
        )
    return found


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
