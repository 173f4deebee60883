"""Asks the meter, and waits for no answer of one that hangs."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from gpuspawner.errors import MeterFailed

METER_WAIT_S = 30.0  # for any answer of the meter
Answer = TypeVar("Answer")


class Asking:
    """The calls of the meter that are under way."""

    def __init__(self) -> None:
        self._calls: set[asyncio.Task[Any]] = set()

    async def answer_of(
        self, call: Coroutine[Any, Any, Answer], wait_s: float | None = None
    ) -> Answer:
        """Return what the meter answers.

        A call that takes too long is cancelled, but not waited for: a driver that waits
        for a database may do so even then.

        Raises:
            Refusal: It answers that.
            MeterFailed: Or nothing within `wait_s` seconds, METER_WAIT_S by default.
        """
        limit_s = METER_WAIT_S if wait_s is None else wait_s
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait({task}, timeout=limit_s)
        finally:
            is_over = task.done()
            task.cancel()
        if not is_over:
            raise MeterFailed(f"The ledger did not answer within {limit_s:g} seconds.")
        return task.result()

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # whoever gave up waiting for it does not read it
