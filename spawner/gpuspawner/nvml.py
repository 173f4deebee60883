"""Reads the machine's GPUs. The only module that imports pynvml.

NVML calls can hang on a sick GPU, so they run in a thread of their own with a deadline.

`python -m gpuspawner.nvml --json` prints what is found.
"""

import asyncio
import json
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace

import pynvml

from gpuspawner.errors import ProbeFailed
from gpuspawner.model import Device

TIMEOUT_S = 15.0

NO_DRIVER = "This machine has no NVIDIA driver, so there are CPU servers only."
NOT_LOADED = (
    "The NVIDIA driver is installed but not loaded: run nvidia-smi as root on the host."
)
MISMATCH = (
    "The NVIDIA driver was upgraded while it was running: restart the machine, "
    "then the hub."
)


class NvmlProbe:
    """A Probe on NVML. NVML is initialised once and kept."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self.timeout_s = timeout_s
        self.absence: str | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="nvml")
        self._reading: Future[tuple[Device, ...]] | None = None
        self._is_stuck = False
        self._is_initialised = False
        self._known: dict[int, Device] = {}

    async def list_devices(self) -> tuple[Device, ...]:
        """See `Probe.list_devices`. A call that hangs fails after `timeout_s`.

        Callers at the same time share one reading.
        """
        stuck = ProbeFailed(
            f"The NVIDIA driver did not answer within {self.timeout_s:g} seconds; "
            "a GPU may be stuck. An admin must look at dmesg on the host."
        )
        if self._reading is None or self._reading.done():
            self._reading, self._is_stuck = self._thread.submit(self.read), False
        if self._is_stuck:
            raise stuck  # no second thread into a driver that hangs
        try:
            waiting = asyncio.shield(asyncio.wrap_future(self._reading))
            return await asyncio.wait_for(waiting, self.timeout_s)
        except TimeoutError:
            self._is_stuck = True
            raise stuck from None

    def read(self) -> tuple[Device, ...]:
        """Return every device, blocking; see `Probe.list_devices`."""
        try:
            if not self._is_initialised:
                pynvml.nvmlInit()
                self._is_initialised = True
            count = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            return self._without_driver(error)
        found = [self._device(index) for index in range(count)]
        devices = tuple(device for device in found if device)
        self._known = {device.index: device for device in devices}
        self.absence = None if devices else NO_DRIVER
        return devices

    def _without_driver(self, error: pynvml.NVMLError) -> tuple[Device, ...]:
        code = error.value
        if code == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            self.absence = NO_DRIVER
        elif code == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
            self.absence = NOT_LOADED
        elif code == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            raise ProbeFailed(MISMATCH)
        else:
            raise ProbeFailed(f"NVML does not work here: {error}.")
        return ()

    def _device(self, index: int) -> Device | None:
        """Return one device; a lost one as it was last known, None if it never was."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            return Device(
                index=index,
                uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
                name=_text(pynvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                minor=int(pynvml.nvmlDeviceGetMinorNumber(handle)),
            )
        except pynvml.NVMLError:
            known = self._known.get(index)
            return replace(known, is_lost=True) if known else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def main() -> int:
    """Print the devices; exit 1 if the driver does not answer."""
    probe = NvmlProbe()
    try:
        devices, reason = probe.read(), probe.absence
    except ProbeFailed as error:
        devices, reason = (), str(error)
    if "--json" in sys.argv[1:]:
        found = [asdict(device) for device in devices]
        sys.stdout.write(json.dumps({"devices": found, "reason": reason}) + "\n")
    else:
        lines = [f"{device}  {device.uuid}" for device in devices] or [str(reason)]
        sys.stdout.write("\n".join(lines) + "\n")
    return 0 if devices or probe.absence else 1


if __name__ == "__main__":
    sys.exit(main())
