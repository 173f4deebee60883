"""Shared memory, /dev/shm: through it DataLoader workers hand over their batches."""

from __future__ import annotations

import os

from torchroom_welcome.panel import Note, bytes_text

PLACE = "/dev/shm"  # noqa: S108 - its size is read, nothing is written there
# Docker's default of 64 MiB is the usual cause of "Bus error" in DataLoader workers.
COMFORTABLE_BYTES = 256 << 20


def size_bytes(place: str = PLACE) -> tuple[int, int]:
    """Total and free bytes; raises OSError if there is no such place."""
    status = os.statvfs(place)
    return status.f_frsize * status.f_blocks, status.f_frsize * status.f_bavail


def verdict(total_bytes: int, promised_bytes: int | None) -> Note:
    """Whether /dev/shm is as large as promised, and large enough for workers."""
    # A page of rounding is not a broken promise.
    if promised_bytes is not None and total_bytes < promised_bytes * 0.99:
        return Note(
            "warn",
            f"The hub promised {bytes_text(promised_bytes)}. Tell your instructor; "
            "until then use `num_workers=0` if a DataLoader worker is killed.",
        )
    if total_bytes < COMFORTABLE_BYTES:
        return Note(
            "warn",
            "That is little: a DataLoader with workers may die with `Bus error`. "
            "Use `num_workers=0` or smaller batches.",
        )
    return Note("good", "Enough for a DataLoader with workers.")
