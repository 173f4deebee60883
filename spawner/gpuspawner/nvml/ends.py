"""The ends of NVLinks: how many links join two GPUs."""

from collections.abc import Sequence

Place = tuple[int, int, int]
"""PCI domain, bus and device: equal for equal devices, however the id is written."""

End = Place | str | None
"""What is at the other end of a link: a device, SWITCH, or None: unknown."""

SWITCH = "switch"


def count_links(
    one: tuple[Place | None, Sequence[End]], other: tuple[Place | None, Sequence[End]]
) -> int:
    """Return the NVLinks that join two GPUs.

    Links that end at each other count as the side says that sees more of them. Through
    switches every GPU reaches every other with all its links, so the smaller number of
    the two GPUs' links to switches counts.

    Args:
        one: The GPU's place, and the other ends of its active links.
        other: The same of the other GPU.
    """
    (place, ends), (other_place, other_ends) = one, other
    seen = ends.count(other_place) if other_place else 0
    other_seen = other_ends.count(place) if place else 0
    switched = min(ends.count(SWITCH), other_ends.count(SWITCH))
    return max(seen, other_seen) + switched
