"""Takes containers down in stages; each one's end is kept before it is removed."""

import asyncio
import logging
from collections.abc import Callable

from gpuspawner import container as c
from gpuspawner.closing import Closing
from gpuspawner.engine import DockerEngine
from gpuspawner.errors import EngineRefused, EngineUnknown

REMOVALS_WAIT_S = 20.0
# An engine may hang here and stop containers all the same.
INTERRUPT_WAIT_S = c.INTERRUPT_S + 5
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Removals:
    """Removes containers, those that nobody waits for in the background.

    Args:
        engine: Has the containers.
        closing: Is told of their ends.
        release: Called with the lease id when a container is gone in the background.
        log: The hub's.

    Attributes:
        tasks: Container id -> its removal in the background.
        log: The hub's.
    """

    def __init__(
        self,
        engine: DockerEngine,
        closing: Closing,
        release: Callable[[str], None],
        log: Log,
    ) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.log = log
        self._engine, self._closing, self._release = engine, closing, release

    def begin(self, container_id: str, lease_id: str, grace_s: int) -> None:
        """Take a container down in the background, one that is not being so already.

        What fails is logged: the next reconciliation finds the container again.
        """
        task = asyncio.create_task(self._remove(container_id, lease_id, grace_s))
        self.tasks[container_id] = task

    async def _remove(self, container_id: str, lease_id: str, grace_s: int) -> None:
        try:
            await self.take_down(container_id, lease_id, grace_s)
            self._release(lease_id)
        except (EngineUnknown, EngineRefused) as error:
            self.log.warning("could not remove it, will try again: %s", error)
        except Exception:  # nobody awaits this task
            self.log.exception("could not remove it, will try again")
        finally:
            del self.tasks[container_id]

    async def take_down(self, container_id: str, lease_id: str, timeout_s: int) -> None:
        """Interrupt kernels, ask the server to end, then make it; it is gone then.

        Its end is kept before it is removed: nobody else knows when it was.

        Args:
            container_id: Which.
            lease_id: Whose it is.
            timeout_s: How long it may take to end by itself; 0: nor is a kernel
                interrupted.

        Raises:
            EngineUnknown: It may be in any state.
            EngineRefused: It is still there.
        """
        if timeout_s:
            try:
                async with asyncio.timeout(INTERRUPT_WAIT_S):
                    interrupt = c.interrupt_kernels()
                    await self._engine.run_check(container_id, interrupt, user="")
            except (EngineUnknown, EngineRefused, TimeoutError) as error:
                # Not running, or an image without a shell: the next stage ends it.
                self.log.debug("kernels not interrupted: %s", error)
        stopped = await self._engine.stop(container_id, timeout_s=timeout_s)
        await self._closing.finished(lease_id, stopped)
        await self._engine.remove(container_id)

    async def wait(self, container_id: str) -> None:
        """Return when a container's removal in the background, if any, is over."""
        if under_way := self.tasks.get(container_id):
            await asyncio.wait({under_way})

    async def wait_all(self) -> None:
        """Return when all removals in the background are over, or it takes too long."""
        if self.tasks:
            await asyncio.wait(self.tasks.values(), timeout=REMOVALS_WAIT_S)
