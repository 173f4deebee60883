"""A GPU as it is kept between two readings."""

from typing import Any


class Gpu:
    """A handle, whose it is, and what is remembered of it.

    Attributes:
        handle: NVML's.
        uuid: Of the GPU.
        links: The numbers of its NVLinks; None: not known for certain yet.
        seen_us: The driver's time of its newest SM use that was read, 0 at first.
    """

    def __init__(self, handle: Any, uuid: str) -> None:
        self.handle = handle
        self.uuid = uuid
        self.links: list[int] | None = None
        self.seen_us = 0
