"""Whether NVML works here, and if not, why: sentences for admins."""

import pynvml as n

NO_DRIVER = "This machine has no NVIDIA driver, so there are CPU servers only."
NOT_LOADED = (
    "The NVIDIA driver is installed but not loaded: run nvidia-smi as root on the host."
)
MISMATCH = (
    "The NVIDIA driver was upgraded while it was running: restart the machine, "
    "then the hub."
)


class Absent(Exception):
    """There is no GPU to be read; the text says why."""


class Trouble(Exception):
    """NVML does not work here; the text says why and what to do."""


def initialise() -> None:
    """Initialise NVML.

    Raises:
        Absent: There is no driver, or it is not loaded.
        Trouble: The library does not fit the driver.
        NVMLError: NVML does not work for another reason.
    """
    try:
        n.nvmlInit()
    except n.NVMLError as error:
        if error.value == n.NVML_ERROR_LIBRARY_NOT_FOUND:
            raise Absent(NO_DRIVER) from error
        if error.value == n.NVML_ERROR_DRIVER_NOT_LOADED:
            raise Absent(NOT_LOADED) from error
        if error.value == n.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            raise Trouble(MISMATCH) from error
        raise
