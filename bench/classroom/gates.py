"""The gate in front of an engine, as a process of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.engine import wait_until

UP_WITHIN_S = 20
END_WITHIN_S = 10


@dataclass(frozen=True)
class Gate:
    """A gate that runs.

    Attributes:
        host: Its address, as clients of the engine write it.
        pid: Its process.
    """

    host: str
    pid: int


@contextlib.contextmanager
def gate(engine: str, folder: Path, *, hub_id: str, network: str) -> Iterator[Gate]:
    """Start one.

    Args:
        engine: Path of the engine's socket.
        folder: Where its own socket is made.
        hub_id: Whose servers it lets pass.
        network: Theirs.
    """
    socket = folder / "gate.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "torchroom.gate"],
        env=os.environ
        | {
            "TORCHROOM_HUB_ID": hub_id,
            "TORCHROOM_NETWORK": network,
            "TORCHROOM_GATE_ENGINE": engine,
            "TORCHROOM_GATE_SOCKET": str(socket),
        },
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(socket.exists, what="the gate comes up", within_s=UP_WITHIN_S)
        yield Gate(f"unix://{socket}", process.pid)
    finally:
        process.terminate()
        process.wait(END_WITHIN_S)
