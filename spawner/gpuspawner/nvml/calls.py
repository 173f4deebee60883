"""One call of NVML: refused, or of a GPU that is lost."""

from collections.abc import Callable
from typing import Any

import pynvml as n

Row = dict[str, Any]

LOST = {n.NVML_ERROR_GPU_IS_LOST, n.NVML_ERROR_RESET_REQUIRED}
UNSUPPORTED = {n.NVML_ERROR_NOT_SUPPORTED, n.NVML_ERROR_FUNCTION_NOT_FOUND}
NO_ID = 0xFFFFFFFF  # NVML's "this is not about a MIG instance"


def read(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what NVML answers, None if it refuses.

    Raises:
        NVMLError: The GPU is lost or needs a reset.
    """
    try:
        return call(*arguments)
    except n.NVMLError as error:
        if error.value in LOST:
            raise
        return None
