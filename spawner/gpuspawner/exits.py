"""Why a server ended, in a sentence its user can act on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gpuspawner.model import Container

SIGKILL = 137
SIGTERM = 143
STOPPED = "Your last server stopped: "
AGAIN = " Start it again."
OUT_OF_TOKENS = "out_of_tokens"
TOLD = frozenset({"idle", "cpu_idle", "max_age", "window_over", "health", "admin"})
"""Reasons that whoever stops a server through JupyterHub's REST API may tell before."""
FAILED_STARTS = frozenset({"not_started", "not_claimed"})


@dataclass(frozen=True, slots=True)
class Exit:
    """The end of a server.

    Attributes:
        reason: out_of_memory, killed, stopped, crashed, not_started, not_claimed,
            removed, gpu_broke, gpu_memory, out_of_tokens, or one of TOLD.
        sentence: For the user.
        at: ISO time of the end, "" if unknown.
        is_refundable: The platform broke, not the user's program.
        broke_at: ISO time since when it was broken, "" if it was not.
    """

    reason: str
    sentence: str
    at: str = ""
    is_refundable: bool = False
    broke_at: str = ""

    @property
    def never_came_up(self) -> bool:
        """Whether no user ever had this server."""
        return self.reason in FAILED_STARTS

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Return what `dataclasses.asdict` made; "broke_at" came later than the rest.

        Raises:
            KeyError: It is not from there.
            TypeError: Likewise.
        """
        return cls(
            str(row["reason"]),
            str(row["sentence"]),
            str(row["at"]),
            is_refundable=row["is_refundable"] is True,
            broke_at=str(row.get("broke_at", "")),
        )


REMOVED = Exit(
    "removed",
    "Your last server was removed by somebody with access to the machine. "
    "Your files are safe; start it again.",
)
ON_REQUEST = Exit("stopped", "Your last server was stopped.")
NOT_STARTED = Exit("not_started", "Your last server did not start.")
NOT_CLAIMED = Exit("not_claimed", "Your last server was lost while it started.")


def out_of_tokens(why: str, at: str) -> Exit:
    """Return the end of a server whose tokens are used up.

    Args:
        why: The meter's sentence, to follow "Your last server stopped: ".
        at: ISO time.
    """
    return Exit(OUT_OF_TOKENS, f"{STOPPED}{why.rstrip('.')}.", at)


# What engines say at a start, and what an admin has to do about it.
KNOWN = {
    "could not select device driver": "The engine cannot attach GPUs: install the "
    "NVIDIA Container Toolkit and restart the engine.",
    "No such image": "The image of this server is not on the machine and could not be "
    "pulled.",
    "no space left on device": "The machine's disk is full.",
    "unresolvable CDI devices": "The engine's list of GPUs (CDI) is out of date: "
    "generate it again.",
}


def explain(said: str) -> str:
    """Return what the engine said as a sentence; what is known comes first."""
    text = f"{said.strip().rstrip('.')}."
    hint = next((hint for known, hint in KNOWN.items() if known in said), "")
    return f"{hint} (The engine said: {text})" if hint else text


def human_bytes(n: int) -> str:
    """Return n bytes in the largest unit that keeps it >= 1, like "1.5 GiB"."""
    value = float(n)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:  # noqa: PLR2004 - the step between units
            return f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def out_of_memory(memory_bytes: int) -> str:
    """Return what a user reads when the memory limit ended something."""
    return (
        f"it ran out of memory (limit {human_bytes(memory_bytes)}). "
        "Load less data at once, use a smaller batch, or choose a larger server."
    )


def describe(container: Container, memory_bytes: int) -> Exit:
    """Return why this container, which is not running, ended."""
    at = container.finished_at.isoformat() if container.finished_at else ""
    if container.is_oom_killed:
        return Exit("out_of_memory", STOPPED + out_of_memory(memory_bytes), at)
    never_ran = container.error and container.started_at is None
    if container.status == "created" or never_ran:
        said = container.error or "it was created but never started"
        return Exit("not_started", f"Your last server did not start: {said}.", at)
    code = container.exit_code
    if code == SIGKILL:
        return Exit("killed", STOPPED + "it was killed from outside (signal 9).", at)
    if code in {0, SIGTERM}:
        return Exit("stopped", STOPPED + "it was shut down.", at)
    return Exit("crashed", f"{STOPPED}it crashed (exit code {code}).{AGAIN}", at)


def describe_start(container: Container | None, memory_bytes: int) -> str:
    """Return why a server ended before it answered, to follow "not started: "."""
    if container is None:
        return "it was removed by somebody with access to the machine."
    sentence = describe(container, memory_bytes).sentence
    return sentence.removeprefix(STOPPED).removesuffix(AGAIN)
