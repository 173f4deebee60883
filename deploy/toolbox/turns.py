"""Commands that would get in each other's way take turns."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolbox.console import say
from toolbox.places import state_dir


@contextmanager
def taking_turns(lock: Path, what: str) -> Iterator[None]:
    """Hold a lock; while another command has it, say what that one does and wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"    another command {what}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def on_this_deployment() -> Iterator[None]:
    """Let no other `make up`, `make down` or `make purge` of it run meanwhile."""
    with taking_turns(state_dir() / "lock", "works on this deployment"):
        yield
