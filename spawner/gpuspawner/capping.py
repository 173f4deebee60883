"""Which means keeps a lease inside its GPU memory, and what the framework cap needs.

The strongest means there is enforces, and it is always said which. Weaker ones stay in
place below it: the framework cap lets PyTorch raise its own out-of-memory error, which
a notebook survives, and the watchdog looks at every share.
"""

from collections.abc import Mapping
from enum import StrEnum

from gpuspawner.errors import Refusal
from gpuspawner.incontainer import PYTHON_DIR
from gpuspawner.model import Slot, SlotKind

CONTEXT_BYTES = 768 * 2**20
"""What a process holds on a device besides PyTorch's allocator, for which no fraction
accounts: the CUDA context and the kernels loaded into it. Told are 300 MiB to 616 MiB
(pytorch#107667, #109888, LMCache#4019: CUDA 11.7 and later load kernels when they are
first used), so that much and some more is set aside, once."""

TORCH_BYTES = "GPUSPAWNER_TORCH_BYTES"


class Means(StrEnum):
    """What enforces the memory of a slot, the strongest first.

    HARDWARE: the slot is a device or a MIG instance, there is no more memory in it.
    DRIVER: the driver refuses memory beyond the cap to all processes of the container.
    FRAMEWORK: PyTorch and JAX in the container refuse it, per process; the watchdog
        ends what goes round them.
    WATCHDOG: nothing refuses it; what goes over the cap is warned, then ended.
    """

    HARDWARE = "hardware"
    DRIVER = "driver"
    FRAMEWORK = "framework"
    WATCHDOG = "watchdog"

    @property
    def strength(self) -> int:
        """Larger is stronger."""
        return -list(Means).index(self)


_SENTENCES = {
    Means.HARDWARE: "its memory is its own",
    Means.DRIVER: "the driver enforces it",
    Means.FRAMEWORK: "PyTorch and JAX keep to it, and what goes over it is ended",
    Means.WATCHDOG: "what goes over it is warned, then ended",
}


class CapTooWeak(Refusal):
    """No means strong enough for the site's setting could be put in place."""

    reason = "cap"
    http_status = 503


def means(
    slot: Slot, read_back_bytes: int | None, *, is_framework_capped: bool
) -> Means:
    """Return what enforces a started container's cap on a slot. Never nothing.

    Args:
        slot: What was leased.
        read_back_bytes: The driver's limit on the container's cgroup as read back,
            None if it has none. Only a limit that is no larger than the slot counts.
        is_framework_capped: `check_framework_cap` exited with 0 in the container.
    """
    if slot.kind is not SlotKind.SHARE:
        return Means.HARDWARE
    if read_back_bytes is not None and 0 < read_back_bytes <= slot.memory_bytes:
        return Means.DRIVER
    return Means.FRAMEWORK if is_framework_capped else Means.WATCHDOG


def sentence(found: Means) -> str:
    """Return how a memory cap is kept, to stand after its size."""
    return _SENTENCES[found]


def check_strong_enough(slot: Slot, found: Means, weakest: Means) -> None:
    """Check the means against the weakest that the site accepts.

    Raises:
        CapTooWeak: A sentence for the user.
    """
    if found.strength < weakest.strength:
        raise CapTooWeak(
            f"A share of {slot} cannot be given: its memory cap would be kept by "
            f"{found} only, and this site asks for {weakest}. Choose a whole GPU, or "
            "tell your admin."
        )


def allocator_bytes(cap_bytes: int) -> int:
    """Return what a framework may allocate under a cap: less than it, more than 0.

    Of a cap too small to hold a context, a quarter is left, so that the framework
    starts and says itself that memory is short.
    """
    return max(cap_bytes - CONTEXT_BYTES, cap_bytes // 4, 1)


def environment(
    image_env: Mapping[str, str], cap_bytes: int, device_bytes: int
) -> dict[str, str]:
    """Return the variables of the framework cap for a container with shares.

    Args:
        image_env: The image's own and those otherwise set; what is returned goes on
            top of them, and keeps their PYTHONPATH.
        cap_bytes: Per device, more than 0.
        device_bytes: The device's total memory.

    JAX reads a fraction of the device; a JAX that preallocated it would leave nothing
    to a second process of the same server. TensorFlow has no variable for a cap: it is
    kept from taking the whole device at once, and the watchdog does the rest.
    """
    allowed = allocator_bytes(cap_bytes)
    # Four digits, rounded down; XLA takes 0 for "everything".
    fraction = max(allowed * 10_000 // max(device_bytes, allowed), 1) / 10_000
    theirs = image_env.get("PYTHONPATH", "")
    env = {
        TORCH_BYTES: str(allowed),
        "PYTHONPATH": f"{PYTHON_DIR}:{theirs}" if theirs else PYTHON_DIR,
        "XLA_PYTHON_CLIENT_MEM_FRACTION": f"{fraction:.4f}",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    # JAX refuses to start with both names set; every JAX reads the one above.
    if image_env.get("XLA_CLIENT_MEM_FRACTION"):
        env["XLA_CLIENT_MEM_FRACTION"] = ""
    return env


def check_framework_cap() -> list[str]:
    """Return a command that exits 0 in a container if its Python places the cap.

    It runs with the container's own environment, as its user, and imports nothing.
    """
    script = (
        "import sys; sys.exit(not any(type(finder).__name__ == '_TorchFinder' "
        "for finder in sys.meta_path))"
    )
    return ["python3", "-c", script]
