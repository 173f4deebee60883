"""What a user may start: sizes from the machine, and a check of what was chosen."""

from collections.abc import Mapping, Sequence

from gpuspawner.errors import InvalidSelection
from gpuspawner.model import Device, Limits, Offer

GIB = 2**30
MIB = 2**20
SHM_SHARE = 0.5  # of the memory limit: DataLoader workers pass batches through it
PIDS = 4096
CPU_ONLY_MEMORY = 2 * GIB
SHOWN = 40  # characters of a user's input that an error repeats
KEPT_FOR_HOST = 0.1  # share of memory that servers together leave to the host


def limits(memory_bytes: int, n_cpus: float) -> Limits:
    """Return limits whose shm is a share of the memory, never Docker's 64 MB."""
    shm = max(64 * MIB, int(memory_bytes * SHM_SHARE))
    return Limits(memory_bytes, min(shm, memory_bytes), n_cpus, PIDS)


def from_machine(
    devices: Sequence[Device], memory_bytes: int, n_cpus: int
) -> tuple[Offer, ...]:
    """Return the default offers: CPU only, then 1, 2, 4, ... and all devices.

    A GPU server's memory and CPUs are its share of the machine by devices; a machine
    without devices offers CPU only.
    """
    usable = int(memory_bytes * (1 - KEPT_FOR_HOST))
    cpu_memory = max(256 * MIB, min(CPU_ONLY_MEMORY, usable // 2))
    found = [Offer("cpu", "CPU only", 0, limits(cpu_memory, float(min(2, n_cpus))))]
    for k in _sizes(len(devices)):
        share = k / len(devices)
        memory = max(cpu_memory, int(usable * share) // MIB * MIB)
        cpus = max(1.0, round(n_cpus * share, 2))
        title = "1 GPU" if k == 1 else f"{k} GPUs"
        found.append(Offer(f"{k}-gpu", title, k, limits(memory, cpus)))
    return tuple(found)


def _sizes(n: int) -> list[int]:
    sizes = [1 << i for i in range(n.bit_length()) if 1 << i <= n]
    return sizes if n == 0 or sizes[-1] == n else [*sizes, n]


def select(offers: Sequence[Offer], options: object) -> Offer:
    """Return the offer that `options` names; no options mean the first offer.

    `options` is whatever a user sent and is never trusted: the only form accepted is
    {"offer": NAME}.

    Raises:
        InvalidSelection: Anything else, with a sentence that lists what is on offer.
    """
    names = ", ".join(offer.name for offer in offers)
    if options is None or options == {}:
        return offers[0]
    if not isinstance(options, Mapping):
        raise InvalidSelection(
            f'The options must be an object like {{"offer": "cpu"}}. On offer: {names}.'
        )
    unknown = sorted(str(key) for key in options if key != "offer")
    if unknown:
        shown = ", ".join(_short(key) for key in unknown[:5])
        raise InvalidSelection(
            f"Unknown option: {shown}. "
            f'The only option is "offer", one of: {names}. Nothing was started.'
        )
    name = options["offer"]
    for offer in offers:
        if isinstance(name, str) and name == offer.name:
            return offer
    raise InvalidSelection(
        f"{_short(name)} is not on offer here. "
        f"Choose one of: {names}. Nothing was started."
    )


def _short(value: object) -> str:
    text = repr(value) if isinstance(value, str | int | float) else type(value).__name__
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
