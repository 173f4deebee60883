"""Why a request is not granted, in sentences that its user can act on."""

from collections import Counter
from collections.abc import Collection

from gpuspawner.exits import human_bytes
from gpuspawner.model import SlotKind, SlotRequest
from gpuspawner.slots import SlotState

KINDS = {
    SlotKind.DEVICE: "GPU",
    SlotKind.MIG: "MIG instance",
    SlotKind.SHARE: "GPU share",
}
STATES = {
    SlotState.LEASED: "leased",
    SlotState.RETURNED: "not clean yet after {their} last server",
    SlotState.FOREIGN: "used by other programs",
    SlotState.UNFIT: "out of service",
}
SAFE = "your files are the same"


def never(request: SlotRequest, *, n_all: int, n_fit: int, has_gpu: bool) -> str:
    """Return why waiting would not help either.

    Args:
        request: What was asked for.
        n_all: How many slots there are that are like this, in use or not.
        n_fit: Those of them that work.
        has_gpu: Whether the machine has any slot at all.
    """
    n, kind = request.n_slots, KINDS[request.kind]
    if not has_gpu:
        return f"This machine has no GPU. Choose CPU only, {SAFE}."
    if n_all == 0:
        whole = "whole " if request.kind is SlotKind.DEVICE else ""
        return (
            f"This machine has no {whole}{kind}{_narrowed(request)}. Choose another "
            f"server or CPU only, {SAFE}."
        )
    if n > 1 and request.kind is not SlotKind.DEVICE:
        return f"A server gets one {kind}; {n} were asked for. Choose a smaller server."
    if n > n_all:
        return (
            f"This machine has {count(n_all, request)}{_narrowed(request)}; {n} were "
            "asked for. Choose a smaller server."
        )
    n_out = n_all - n_fit
    who = f"{n_out} of {count(n_all, request)} {_are(n_out)}"
    if n_out == n_all:
        who = f"All {count(n_all, request)} are" if n_all > 1 else f"The only {kind} is"
    smaller = "a smaller server or " if n_fit else ""
    return (
        f"{who} out of service, so {n} cannot be had now; your admin sees why. Choose "
        f"{smaller}CPU only, {SAFE}."
    )


def full(request: SlotRequest, states: Collection[SlotState]) -> str:
    """Return who has what, and what must be given back first.

    Args:
        request: What was asked for.
        states: Of every slot that is like this.
    """
    n, found = request.n_slots, Counter(states)
    n_free = found[SlotState.FREE]
    such = _narrowed(request)
    begin = f"No {KINDS[request.kind]}{such} is free"
    if n_free:
        few = f"{count(n_free, request)}{such}"
        begin = f"Only {few} of the {n} asked for {_are(n_free)} free"
    parts = [
        f"{found[state]} {_are(found[state])} "
        + text.format(their="its" if found[state] == 1 else "their")
        for state, text in STATES.items()
        if found[state]
    ]
    lacking = n - n_free
    return (
        f"{begin}. Of {count(len(states), request)}, {_list(parts)}. You can start as "
        f"soon as {lacking} more {_are(lacking)} free; until then choose CPU only, "
        f"{SAFE}."
    )


def count(n: int, request: SlotRequest) -> str:
    """Return "1 GPU", "3 MIG instances", and so on."""
    return f"{n} {KINDS[request.kind]}{'' if n == 1 else 's'}"


def _narrowed(request: SlotRequest) -> str:
    """Return what else was asked for, like " of type A100"."""
    of_type = f" of type {request.type}" if request.type else ""
    least = request.min_memory_bytes
    return of_type + (f" with {human_bytes(least)} or more" if least else "")


def _are(n: int) -> str:
    return "is" if n == 1 else "are"


def _list(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))
