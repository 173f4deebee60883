"""Why a request is not granted, in sentences that its user can act on."""

from collections.abc import Collection, Iterable, Mapping

from gpuspawner.model import Slot, SlotKind, SlotRequest
from gpuspawner.slots import fits

KINDS = {
    SlotKind.DEVICE: "GPU",
    SlotKind.MIG: "MIG instance",
    SlotKind.SHARE: "GPU share",
}


def never(request: SlotRequest, slots: Iterable[Slot], unfit: Mapping[str, str]) -> str:
    """Return why waiting would not help either."""
    every = [slot for slot in slots if fits(slot, request)]
    unfit_ones = [slot for slot in every if _is_out(slot, unfit)]
    n = request.n_slots
    if n > len(every) or (n > 1 and request.kind is not SlotKind.DEVICE):
        return (
            f"This machine has {count(len(every), request)}; {n} were asked for. "
            "Choose a smaller server."
        )
    if len(every) - len(unfit_ones) < n:
        out = "is" if len(unfit_ones) == 1 else "are"
        return (
            f"{count(len(unfit_ones), request)} of {len(every)} {out} out of service, "
            f"so {n} cannot be had now; your admin sees why. Choose a smaller "
            "server or CPU only, your files are the same."
        )
    return (
        f"The {count(n, request)} asked for must be of one type and connected, and "
        "this machine has no such set. Choose a smaller server."
    )


def full(
    request: SlotRequest,
    every: Collection[Slot],
    free: Collection[Slot],
    *,
    n_leased: int,
    n_foreign: int,
) -> str:
    """Return who has what, and what must be given back first.

    Args:
        request: What was asked for.
        every: All slots of the kind asked for.
        free: Those that could be leased now.
        n_leased: How many of them are leased.
        n_foreign: How many devices other programs use.
    """
    n, n_free = request.n_slots, len(free)
    lost = sum(slot.device.is_lost for slot in every)
    begin = (
        f"No {KINDS[request.kind]} is free"
        if n_free == 0
        else f"Only {count(n_free, request)} of the {n} asked for "
        f"{'is' if n_free == 1 else 'are'} free"
    )
    parts = [f"{n_leased} leased"]
    if n_foreign:
        parts.append(f"{n_foreign} used by other programs")
    if lost:
        parts.append(f"{lost} not answering")
    lacking = max(1, n - n_free)
    are = "is" if lacking == 1 else "are"
    return (
        f"{begin}: of {count(len(every), request)}, {', '.join(parts)}. You can "
        f"start as soon as {count(lacking, request)} more {are} given back; until then "
        "choose CPU only, your files are the same."
    )


def count(n: int, request: SlotRequest) -> str:
    """Return "1 GPU", "3 MIG instances", and so on."""
    return f"{n} {KINDS[request.kind]}{'' if n == 1 else 's'}"


def _is_out(slot: Slot, unfit: Mapping[str, str]) -> bool:
    return slot.device.is_lost or slot.device.uuid in unfit
