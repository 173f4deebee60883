"""Which of the free devices to give, and why."""

from collections.abc import Sequence

from gpuspawner.model import Device


def choose(free: Sequence[Device], n: int) -> tuple[tuple[Device, ...], str]:
    """Return exactly n of the free devices and one line that explains the choice.

    Deterministic: the lowest indices, ties end in the UUID. The result does not
    depend on the order of `free`.

    Raises:
        ValueError: n is negative or more than there are.
    """
    if not 0 <= n <= len(free):
        raise ValueError(f"cannot choose {n} of {len(free)} devices")
    chosen = tuple(sorted(free)[:n])
    if not chosen:
        return chosen, "no GPU asked for"
    indices = "+".join(str(device.index) for device in chosen)
    return chosen, f"GPU {indices}: lowest free of {len(free)}"
