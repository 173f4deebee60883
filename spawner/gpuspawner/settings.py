"""What a site wrote into its configuration, read and checked."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from gpuspawner import offers
from gpuspawner.container import ConfigurationError
from gpuspawner.model import Offer, SlotKind, SlotRequest
from gpuspawner.tickets import Priority


def read_offer(row: Mapping[str, Any]) -> Offer:
    """Return one row of `offers`.

    Raises:
        ConfigurationError: It lacks or garbles something.
    """
    try:
        limits = offers.limits(int(row["memory_bytes"]), float(row["n_cpus"]))
        request = SlotRequest(
            int(row["n_gpus"]),
            SlotKind(row.get("gpu_kind", SlotKind.DEVICE)),
            str(row.get("gpu_type", "")),
            int(row.get("gpu_memory_bytes", 0)),
            bool(row.get("connected", False)),
        )
        found = Offer(str(row["name"]), str(row["title"]), request, limits)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"GPUDockerSpawner.offers: {row} lacks or garbles {error}"
        ) from error
    if request.n_slots < 0:
        raise ConfigurationError(
            f"GPUDockerSpawner.offers: {row} asks for fewer than 0 GPUs"
        )
    return found


def read_counts(name: str, found: Mapping[Any, Any]) -> dict[str, int]:
    """Return a mapping to whole numbers of at least 1, its keys as text.

    Raises:
        ConfigurationError: Something else.
    """
    for key, value in found.items():
        if type(value) is not int or value < 1:
            raise ConfigurationError(
                f"GPUDockerSpawner.{name}: {key!r} is {value!r}; it must be a whole "
                "number of at least 1"
            )
    return {str(key): value for key, value in found.items()}


def read_groups(found: Mapping[Any, Any]) -> dict[int, int]:
    """Return `keep_intact`: size of a group -> how many are kept.

    Raises:
        ConfigurationError: Something else.
    """
    counts = read_counts("keep_intact", found)
    if wrong := sorted(size for size in counts if not size.isdecimal()):
        raise ConfigurationError(
            f"GPUDockerSpawner.keep_intact: {wrong[0]!r} must be how many GPUs a group "
            "has, as in {4: 1}"
        )
    return {int(size): n for size, n in counts.items()}


def read_window(row: Mapping[str, Any], now: datetime) -> Priority:
    """Return a window's occurrence that is open now or was the last one.

    Raises:
        ConfigurationError: It lacks or garbles something, or has no time zone.
    """
    try:
        start = datetime.fromisoformat(row["start"])
        end = datetime.fromisoformat(row["end"])
        every = timedelta(days=float(row.get("every_days", 0)))
        if every and start.tzinfo and now > start:
            past = (now - start) // every * every
            start, end = start + past, end + past
        found = Priority(str(row["group"]), start, end)
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(
            f"GPUDockerSpawner.priority_windows: {row} lacks or garbles {error}"
        ) from error
    if found.starts_at.tzinfo is None or found.ends_at.tzinfo is None:
        raise ConfigurationError(
            f"GPUDockerSpawner.priority_windows: {row} needs a time zone in start and "
            "end, as in 2026-03-02T10:00+01:00"
        )
    if found.starts_at >= found.ends_at:
        raise ConfigurationError(
            f"GPUDockerSpawner.priority_windows: {row} ends before it starts"
        )
    return found
