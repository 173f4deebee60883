"""What the driver reports of GPUs without being asked: XIDs, recovery actions."""

import ctypes
import threading
import time
from collections.abc import Callable
from typing import Any

import pynvml as n

from gpuspawner.nvml.calls import NO_ID, Row
from gpuspawner.nvml.sampling import recovery_action

WANTED = n.nvmlEventTypeXidCriticalError | n.nvmlEventTypeGpuRecoveryAction
WAIT_MS = 5000
PAUSE_S = 1.0  # after a wait that failed: a lost GPU must not make it spin


class Events:
    """Waits for what the drivers of the watched GPUs report.

    Args:
        report: Called in a thread with each event.
    """

    def __init__(self, report: Callable[[Row], None]) -> None:
        self._report = report
        self._set: Any = None
        # A GPU that has just been lost cannot be asked for its UUID any more.
        self._uuids: dict[int, str] = {}

    def watch(self, handle: Any, uuid: str) -> None:
        """Hear of this GPU what its driver can report; safe to call again.

        A driver that refuses is no failure: polls tell most of it a little later.
        """
        address = _address(handle)
        if address in self._uuids:
            return
        try:
            types = n.nvmlDeviceGetSupportedEventTypes(handle) & WANTED
            if not types:
                return
            self._set = self._set or n.nvmlEventSetCreate()
            n.nvmlDeviceRegisterEvents(handle, types, self._set)
        except n.NVMLError:
            return
        self._uuids[address] = uuid
        if len(self._uuids) == 1:
            threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                data = n.nvmlEventSetWait_v2(self._set, WAIT_MS)
            except n.NVMLError as error:
                if error.value != n.NVML_ERROR_TIMEOUT:
                    time.sleep(PAUSE_S)
                continue
            uuid = self._uuids.get(_address(data.device))
            if uuid is None:
                continue
            event: Row = {"uuid": uuid, "at": time.time()}
            if data.eventType == n.nvmlEventTypeXidCriticalError:
                event |= {"kind": "xid", "code": data.eventData}
            else:  # nvml.h: eventData is 0 for any other event
                event |= {"kind": "recovery", "code": _recovery_or_none(data.device)}
            if data.gpuInstanceId != NO_ID:
                event["gpu_instance"] = data.gpuInstanceId
            self._report(event)


def _address(handle: Any) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0


def _recovery_or_none(handle: Any) -> int:
    try:
        return recovery_action(handle) or n.NVML_GPU_RECOVERY_ACTION_NONE
    except n.NVMLError:
        return int(n.NVML_GPU_RECOVERY_ACTION_NONE)
