"""What a site decides about its machine: settings that its host goes by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpuspawner.pacing import NO_LIMIT, Pace


@dataclass(frozen=True, slots=True)
class Policy:
    """Read from the traits of GPUDockerSpawner.

    Attributes:
        shares: Device -> how many users share it.
        keep_intact: Group size -> groups kept whole for requests of that size.
        bystanders: Names of other containers that may hold any GPU.
        queue_timeout_s: Longest wait in the queue.
        sample_every_s: Seconds between two rounds.
        clean_within_s: How long a returned slot may take to become clean.
        meter_every_s: Seconds between two looks of the meter at running servers.
        state_dir: Where what must outlive the hub is kept.
        starts: How often one user may start a server.
        unanswered: How many of a user's GPU servers may not answer.
    """

    shares: Mapping[str, int] = field(default_factory=dict)
    keep_intact: Mapping[int, int] = field(default_factory=dict)
    bystanders: frozenset[str] = frozenset()
    queue_timeout_s: float = 0.0
    sample_every_s: float = 10.0
    clean_within_s: float = 60.0
    meter_every_s: float = 60.0
    state_dir: Path = Path()
    starts: Pace = NO_LIMIT
    unanswered: Pace = NO_LIMIT
